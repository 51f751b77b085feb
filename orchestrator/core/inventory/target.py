"""Which machines a command is for, and how they are reached."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """How to connect. ``connect_timeout`` in seconds.

    New host keys are recorded: all, or the one with a fingerprint.
    """

    connect_timeout: float = 10.0
    accept_new_host_keys: bool = False
    accept_fingerprint: str | None = None

    def accepts(self, seen: str) -> bool:
        """Whether a key of this fingerprint may be recorded for a host of which none is."""
        return self.accept_new_host_keys or seen == self.accept_fingerprint


@dataclass(frozen=True)
class Target:
    """Which machines a command is for and how to reach them: the options that every verb shares."""

    hosts_file: Path
    nodes: str | None = None
    settings: Settings = field(default_factory=Settings)
    fanout: int = 64
