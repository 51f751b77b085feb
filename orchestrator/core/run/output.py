"""What is heard from a node beside events: pieces of its logs, and how busy it is."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.protocol import frames


@dataclass(frozen=True)
class Output:
    """A piece of what a process printed. ``stream``: ``stdout``, ``stderr``, or ``torchrun`` for its own words.

    ``rank`` is None for torchrun, and where it is not known which rank a worker had. ``restart`` counts how often
    an elastic torchrun started it again. ``skipped``: so many bytes before it could not be kept.
    """

    node: str
    rank: int | None
    local_rank: int | None
    stream: str
    data: bytes
    restart: int = 0
    skipped: int = 0

    @property
    def name(self) -> str:
        """The stream's name in frames and offsets."""
        if self.local_rank is None:
            return self.stream
        return frames.stream_name(self.local_rank, self.restart, self.stream)


@dataclass(frozen=True)
class NodeSample:
    """How busy a node is. ``cpu`` and GPU use are shares of 1, memory in bytes; GPUs are (busy, used, total)."""

    node: str
    cpu: float
    memory_used: int
    memory_total: int
    gpus: tuple[tuple[float, int, int], ...]
