"""Sample the load of a node (CPU, memory, GPUs and ranks) during a run, in ``sample.json``."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time

from ...protocol.run import Sample
from ...protocol.shapes import decoded
from ..host import atomic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..tracing.pace import Pace

# Interval between two samples, in seconds.
INTERVAL = 2.0
QUERY = "--query-gpu=utilization.gpu,memory.used,memory.total,utilization.memory"
# A kernel that waits for another GPU keeps its own busy, and hardly touches memory.
SPINS, TOUCHES = 0.9, 0.02


class Sampler:
    """Writes a sample every ``INTERVAL`` seconds, if ``tick()`` is called often; never blocks."""

    def __init__(self, folder: str, pace: Pace) -> None:
        self.path = os.path.join(folder, "sample.json")
        self.pace = pace
        self.sampled_at = 0.0
        self.cpu = cpu_times()
        self.gpu_query: subprocess.Popen[bytes] | None = None
        self.gpus: tuple[tuple[float, int, int], ...] = ()
        # Of each GPU, the share of time in which its memory was read or written; None if nvidia-smi does not tell.
        self.touching: tuple[float | None, ...] = ()
        self.has_gpus = True

    def tick(self) -> bool:
        """Take a sample if one is due; return whether it was."""
        if time.monotonic() - self.sampled_at < INTERVAL:
            return False
        self.sampled_at = time.monotonic()
        self.query_gpus()
        total, available = memory()
        sample = Sample(
            cpu=self.busy(),
            memory_used=total - available,
            memory_total=total,
            gpus=self.gpus,
            ranks=self.pace.told(),
            links=self.pace.links,
        )
        with contextlib.suppress(OSError), atomic.written(self.path) as file:
            json.dump(sample.to_wire(), file)
        return True

    def busy(self) -> float:
        """Return the share of CPU time used since the last call, 0 to 1."""
        before, self.cpu = self.cpu, cpu_times()
        total = self.cpu[0] - before[0]
        return (self.cpu[1] - before[1]) / total if total else 0.0

    def query_gpus(self) -> None:
        """Read the last nvidia-smi query if it has ended, and start the next; a query may take seconds."""
        if self.gpu_query is not None:
            if self.gpu_query.poll() is None:
                return
            said, _ = self.gpu_query.communicate()
            self.gpus, self.touching = parsed_gpus(said.decode("ascii", "replace"))
            self.gpu_query = None
        if self.has_gpus:
            command = ["nvidia-smi", QUERY, "--format=csv,noheader,nounits"]
            try:
                self.gpu_query = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )
            except OSError:
                self.has_gpus = False

    def gpus_work(self) -> bool:
        """Return whether a GPU reads or writes its memory."""
        return any(touched is not None and touched >= TOUCHES for touched in self.touching)

    def gpus_spin(self) -> bool:
        """Return whether a GPU is busy without touching its memory, as in a collective that waits."""
        pairs = zip(self.gpus, self.touching)
        return any(gpu[0] >= SPINS and touched is not None and touched < TOUCHES for gpu, touched in pairs)

    def close(self) -> None:
        """End a running nvidia-smi query."""
        if self.gpu_query is not None:
            self.gpu_query.kill()
            self.gpu_query.communicate()
            self.gpu_query = None


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


def parsed_gpus(text: str) -> tuple[tuple[tuple[float, int, int], ...], tuple[float | None, ...]]:
    """Parse nvidia-smi's lines into (busy share from 0 to 1, used bytes, total bytes); skip others.

    Also return the share of time in which each GPU's memory was read or written, None where it is not told.
    """
    found: list[tuple[float, int, int]] = []
    touching: list[float | None] = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            words = line.split(",")
            busy, used, total = (float(word) for word in words[:3])
            found.append((busy / 100, int(used * 2**20), int(total * 2**20)))
            try:
                touching.append(float(words[3]) / 100)
            except (IndexError, ValueError):
                touching.append(None)
    return tuple(found), tuple(touching)
