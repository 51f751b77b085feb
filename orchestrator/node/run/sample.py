"""Sample the load of a node (CPU, memory, GPUs and ranks) during a run, in ``sample.json``."""

from __future__ import annotations

import contextlib
import json
import os
import time

from ...protocol.run import Sample
from ...protocol.shapes import decoded
from ..host import atomic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..tracing.gpus import Gpus
    from ..tracing.pace import Pace

# Interval between two samples, in seconds.
INTERVAL = 2.0


class Sampler:
    """Writes a sample every ``INTERVAL`` seconds, if ``tick()`` is called often; never blocks."""

    def __init__(self, folder: str, pace: Pace, gpus: Gpus) -> None:
        self.path = os.path.join(folder, "sample.json")
        self.pace = pace
        self.gpus = gpus
        self.sampled_at = 0.0
        self.cpu = cpu_times()

    def tick(self) -> bool:
        """Take a sample if one is due; return whether it was."""
        if time.monotonic() - self.sampled_at < INTERVAL:
            return False
        self.sampled_at = time.monotonic()
        self.gpus.query()
        total, available = memory()
        sample = Sample(
            cpu=self.busy(),
            memory_used=total - available,
            memory_total=total,
            gpus=self.gpus.loads,
            ranks=self.pace.told(),
            links=self.pace.links,
            gpu_paces=tuple(self.gpus.paces.values()),
        )
        with contextlib.suppress(OSError), atomic.written(self.path) as file:
            json.dump(sample.to_wire(), file)
        return True

    def busy(self) -> float:
        """Return the share of CPU time used since the last call, 0 to 1."""
        before, self.cpu = self.cpu, cpu_times()
        total = self.cpu[0] - before[0]
        return (self.cpu[1] - before[1]) / total if total else 0.0


def last(folder: str) -> Sample | None:
    """Return the newest sample of an attempt, or None."""
    try:
        with open(os.path.join(folder, "sample.json"), "rb") as file:
            return Sample.from_wire(decoded(file.read()))
    except (OSError, ValueError):
        return None


def cpu_times() -> tuple[int, int]:
    """Return ``(total, busy)`` CPU time of all cores since boot, in clock ticks (proc_stat(5))."""
    try:
        with open("/proc/stat") as file:
            ticks = [int(word) for word in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return 0, 0
    return sum(ticks), sum(ticks) - ticks[3] - ticks[4]


def memory() -> tuple[int, int]:
    """Return ``(total, available)`` memory in bytes (proc_meminfo(5))."""
    found = {}
    with contextlib.suppress(OSError), open("/proc/meminfo") as lines:
        for line in lines:
            name, _, rest = line.partition(":")
            found[name] = int(rest.split()[0]) * 1024
    return found.get("MemTotal", 0), found.get("MemAvailable", found.get("MemFree", 0))
