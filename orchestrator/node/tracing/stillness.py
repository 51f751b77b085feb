"""Watch for ranks that make no progress: they do not print, read, write or compute, and no GPU of the node works.

A rank that waits in a collective of gloo sleeps. One that waits in a collective of NCCL keeps a GPU and a core
busy, so processor time does not count while a GPU is busy without touching its memory.
"""

from __future__ import annotations

import os
import time

from ...protocol.events import Still
from ..host import processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ...protocol.events import Event
    from ..run.workers import Workers
    from .gpus import Gpus

    # A rank's processor time in seconds, the bytes that it read and wrote, and those that it printed.
    Look = tuple[float, int, int]

# Interval between two looks, in seconds: a tenth of the time asked for, within these limits.
SHORTEST, LONGEST = 1.0, 15.0
# A rank that uses less than this share of a core does not compute: threads that only wait use some, too.
COMPUTES = 0.05
# Traffic in bytes between two looks up to which a network is quiet: about 1 MiB/s where looks are 15 s apart.
# A quiet one has room for SSH connections, and for py-spy (8 MB), which is sent before stacks are taken.
TRAFFIC = 16 << 20
TICK = os.sysconf("SC_CLK_TCK")


class Stillness:
    """Records which ranks have made no progress for ``after`` seconds, if ``tick()`` is called often."""

    def __init__(self, after: float, workers: Workers, gpus: Gpus, record: Callable[[Event], None]) -> None:
        self.after = after
        self.every = max(SHORTEST, min(LONGEST, after / 10))
        self.workers = workers
        self.gpus = gpus
        self.record = record
        self.looked_at = 0.0
        self.traffic = traffic()
        # Of each rank: what was seen last, and when it last made progress, by the monotonic clock.
        self.seen: dict[int, Look] = {}
        self.moved: dict[int, float] = {}
        self.told: tuple[tuple[int, ...], int] = ((), 0)

    def tick(self) -> None:
        """Look if it is time to, and record what has changed."""
        now = time.monotonic()
        if now - self.looked_at < self.every:
            return
        elapsed, self.looked_at = now - self.looked_at, now
        there = {
            rank: (local_rank, pid)
            for local_rank, (rank, pid, _) in self.workers.by_local_rank.items()
            if rank is not None and pid is not None and processes.alive(pid)
        }
        before, self.traffic = self.traffic, traffic()
        busy = self.gpus.work() or abs(self.traffic - before) > TRAFFIC
        printed = self.printed()
        for rank, (local_rank, pid) in there.items():
            look = (processor_time(pid), transferred(pid), printed.get(local_rank, 0))
            if busy or rank not in self.seen or self.differs(self.seen[rank], look, elapsed):
                self.moved[rank] = now
            self.seen[rank] = look
        still = tuple(sorted(rank for rank in there if now - self.moved[rank] >= self.after))
        if still != self.told[0] or (still and len(there) != self.told[1]):
            self.told = (still, len(there))
            self.record(Still(time=time.time(), ranks=still, among=len(there), after=self.after))

    def differs(self, before: Look, now: Look, elapsed: float) -> bool:
        """Return whether a rank made progress in the ``elapsed`` seconds between two looks."""
        computed = now[0] - before[0] > COMPUTES * elapsed and not self.gpus.spin()
        return computed or now[1:] != before[1:]

    def printed(self) -> Mapping[int, int]:
        """Return the length of each local rank's logs in bytes."""
        found: dict[int, int] = {}
        for name, size in self.workers.sizes().items():
            local_rank = name.partition(".")[0]
            if local_rank.isdigit():
                found[int(local_rank)] = found.get(int(local_rank), 0) + size
        return found


def processor_time(pid: int) -> float:
    """Return the seconds of processor time that a process and its descendants have used (proc_pid_stat(5))."""
    ticks = 0
    for each in (pid, *processes.descendants(pid)):
        try:
            with open("/proc/%d/stat" % each, "rb") as file:
                ticks += sum(int(word) for word in file.read().rpartition(b")")[2].split()[11:15])
        except (OSError, ValueError):
            continue
    return ticks / TICK


def transferred(pid: int) -> int:
    """Return the bytes that a process has read and written (proc_pid_io(5)); 0 if that may not be read.

    Bytes of sockets that are sent and received by calls of their own do not count.
    """
    try:
        with open("/proc/%d/io" % pid, "rb") as lines:
            return sum(int(line.split()[1]) for line in lines if line.startswith((b"rchar", b"wchar")))
    except (OSError, ValueError, IndexError):
        return 0


def traffic() -> int:
    """Return the bytes that this node has received and sent, except to itself (proc_pid_net(5))."""
    found = 0
    try:
        with open("/proc/self/net/dev") as lines:
            for line in lines:
                name, _, rest = line.partition(":")
                words = rest.split()
                if len(words) > 8 and name.strip() != "lo":
                    found += int(words[0]) + int(words[8])
    except (OSError, ValueError):
        pass
    return found
