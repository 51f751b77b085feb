"""How often each rank of a node has something to run, and how fast its connections are.

Ranks that wait for others in a collective of gloo or MPI sleep; the one that they wait for runs, or would if it
could. One that waits in a collective of NCCL keeps a core busy, so there this tells no difference.
"""

from __future__ import annotations

import os
import time

from ...protocol.run import LinkPace, RankPace
from ..host import processes
from . import sockets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..run.workers import Workers

# Interval between two looks, in seconds: so long that looking takes this part of one core, within these limits.
SHORTEST, LONGEST = 0.2, 5.0
COST = 0.003
# Interval between two looks at the connections, in seconds.
CONNECTIONS = 5.0
# Looks after which a rank's descendants are looked for again.
RELATIVES = 8
# The connections that were busy for longest are told.
MOST_LINKS = 8
CGROUPS = "/sys/fs/cgroup"


class Pace:
    """Counts what ranks are seen doing, if ``tick()`` is called often."""

    def __init__(self, workers: Workers) -> None:
        self.workers = workers
        self.interval = SHORTEST
        self.looked_at = 0.0
        self.connections_at = 0.0
        self.links: tuple[LinkPace, ...] = ()
        # Of each process of a rank: looks, and how often it ran, was stopped, and waited for a disk.
        self.counts: dict[tuple[int, int], list[int]] = {}
        self.relatives: dict[int, list[int]] = {}

    def tick(self) -> None:
        """Look at the ranks, and now and then at the connections, if it is time to."""
        now = time.monotonic()
        if now - self.looked_at < self.interval:
            return
        self.looked_at, began = now, time.process_time()
        for rank, pid in self.ranks():
            self.look(rank, pid)
        self.interval = max(SHORTEST, min(LONGEST, (time.process_time() - began) / COST))
        if now - self.connections_at >= CONNECTIONS:
            self.connections_at = now
            links = sorted(sockets.links(), key=lambda link: link.busy)
            self.links = tuple(links[-MOST_LINKS:])

    def look(self, rank: int, pid: int) -> None:
        """Count what a rank, or a process that it started, is doing."""
        counts = self.counts.setdefault((rank, pid), [0, 0, 0, 0])
        if counts[0] % RELATIVES == 0:
            self.relatives[pid] = processes.descendants(pid)
        doing = "".join(states(each) for each in (pid, *self.relatives[pid]))
        if doing:
            counts[0] += 1
            seen = next((at for at, letters in enumerate(("R", "Tt", "D"), 1) if set(letters) & set(doing)), 0)
            counts[seen] += 1 if seen else 0

    def ranks(self) -> list[tuple[int, int]]:
        """Return rank and process id of each rank that is known."""
        known = self.workers.by_local_rank.values()
        return [(rank, pid) for rank, pid, _ in known if rank is not None and pid is not None]

    def told(self) -> tuple[RankPace, ...]:
        """Return what has been counted of each rank so far."""
        return tuple(
            RankPace(
                rank=rank,
                pid=pid,
                looks=looks,
                runs=runs,
                stopped=stopped,
                disk=disk,
                queued=queued(pid),
                throttled=throttled(pid),
                faults=faults(pid),
            )
            for (rank, pid) in self.ranks()
            for looks, runs, stopped, disk in [self.counts.get((rank, pid), (0, 0, 0, 0))]
        )


def states(pid: int) -> str:
    """Return the states of a process's threads, a letter for each (proc_pid_stat(5)); empty if it is gone.

    Threads after one that runs are left out: they change nothing.
    """
    found = ""
    try:
        place = os.open("/proc/%d/task" % pid, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return found
    try:
        for task in os.listdir(place):
            try:
                # Several times faster than open(), and this is done for each thread of each rank.
                file = os.open(task + "/stat", os.O_RDONLY, dir_fd=place)
                try:
                    found += chr(os.read(file, 512).rpartition(b")")[2][1])
                finally:
                    os.close(file)
            except (OSError, IndexError):
                continue
            if found.endswith("R"):
                break
    except OSError:
        pass
    finally:
        os.close(place)
    return found


def queued(pid: int) -> float:
    """Return how long a process's main thread could run and had no core, in seconds (the kernel's sched-stats)."""
    try:
        with open("/proc/%d/schedstat" % pid) as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def faults(pid: int) -> int:
    """Return for how many pages a process has waited for a disk (proc_pid_stat(5), majflt)."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[9])
    except (OSError, ValueError, IndexError):
        return 0


def throttled(pid: int) -> float:
    """Return how long a process's control group, or one above it, was held back by cpu.max, in seconds.

    0 where version 2 of control groups is not in use (the kernel's cgroup-v2).
    """
    longest = 0.0
    try:
        with open("/proc/%d/cgroup" % pid) as lines:
            place = next((line[3:].strip() for line in lines if line.startswith("0::")), "/")
    except OSError:
        return longest
    while place.strip("/") and ".." not in place:
        try:
            with open("%s/%s/cpu.stat" % (CGROUPS, place.strip("/"))) as lines:
                fields = dict(line.split() for line in lines)
            longest = max(longest, int(fields["throttled_usec"]) / 1e6)
        except (OSError, KeyError, ValueError):
            pass
        place = os.path.dirname(place)
    return longest
