"""The machines that a command addresses, and how to connect to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """How to connect. ``connect_timeout`` is in seconds.

    ``accept_new_host_keys`` records the key of any host that has none recorded; ``accept_fingerprint`` only the
    key with this fingerprint.
    """

    connect_timeout: float = 10.0
    accept_new_host_keys: bool = False
    accept_fingerprint: str | None = None

    def accepts(self, seen: str) -> bool:
        """Return whether the key with fingerprint ``seen`` may be recorded for a host that has no recorded key."""
        return self.accept_new_host_keys or seen == self.accept_fingerprint


def _ignore(note: str) -> None:
    """Do nothing with a note."""


@dataclass(frozen=True)
class Target:
    """The machines that a command addresses and how to reach them: the options that all verbs share.

    ``hosts_file`` may also be another tool's list of hosts, or a list itself, such as ``node1,node2``. ``note``
    is called with each line on what was left out of it.
    ``master``: name or address of the host that gets node_rank 0; None leaves the choice to the inventory.
    ``include`` and ``exclude`` choose hosts and their GPUs as DeepSpeed writes them: ``a@b:0,2``.
    """

    hosts_file: Path
    nodes: str | None = None
    settings: Settings = field(default_factory=Settings)
    fanout: int = 64
    master: str | None = None
    include: str | None = None
    exclude: str | None = None
    note: Callable[[str], object] = field(default=_ignore, compare=False, repr=False)
