"""What a node sends besides events: pieces of its logs, and samples of its load."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.protocol import frames
from orchestrator.protocol.run import GpuPace, LinkPace, RankPace


@dataclass(frozen=True)
class Output:
    """A piece of a process's output. ``stream`` is ``stdout``, ``stderr``, or ``torchrun`` for torchrun's own log.

    ``rank`` is None for torchrun and for a worker whose rank is unknown. ``restart`` counts how often an elastic
    torchrun has restarted the ranks. ``skipped``: number of bytes before this piece that the node did not keep.
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
        """Name of the stream in frames and offsets."""
        if self.local_rank is None:
            return self.stream
        return frames.stream_name(self.local_rank, self.restart, self.stream)


@dataclass(frozen=True)
class NodeSample:
    """Load of a node at ``time``, by its clock. ``cpu`` and ``busy`` are shares of 1, memory is in bytes.

    GPUs are (busy, used, total). ``ranks``: what each rank was seen doing. ``links``: its busiest connections.
    ``gpu_paces``: what was seen of each GPU.
    """

    node: str
    cpu: float
    memory_used: int
    memory_total: int
    gpus: tuple[tuple[float, int, int], ...]
    time: float = 0.0
    ranks: tuple[RankPace, ...] = ()
    links: tuple[LinkPace, ...] = ()
    gpu_paces: tuple[GpuPace, ...] = ()
