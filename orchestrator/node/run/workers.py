"""Track the workers that torchrun starts: their ranks, their output, and the first one that fails."""

from __future__ import annotations

import os
import re
import time

from ...protocol import frames
from ...protocol.events import RankFailed, WorkerFound
from ..host import processes
from . import failure, logcut

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...protocol.events import Event
    from ...protocol.run import Start

# torchrun logs this line as soon as it notices a failure (torch/distributed/elastic/multiprocessing/api.py); its
# summary follows only after its other workers have ended.
FAILED = re.compile(r"failed \(exitcode: (?P<code>-?\d+)\) local_rank: (?P<local_rank>\d+) \(pid: (?P<pid>\d+)\)")


# A disk with less free space than this, in bytes, counts as full.
NO_ROOM = 256 * 1024
# A worker whose log has been there for this many seconds and that has not been seen has ended: torchrun opens the
# log just before it starts the worker.
UNSEEN = 2.0


class Workers:
    """The workers of one torchrun. ``record``: called with each event about them."""

    def __init__(self, request: Start, folder: str, work: str, record: Callable[[Event], None]) -> None:
        self.mark = (request.run_id, request.attempt)
        self.contained = request.container is not None
        self.below_mpirun = request.mpi is not None
        # torchrun's process id, once known.
        self.torchrun: int | None = None
        self.nproc = request.nproc
        self.first_rank = request.first_rank
        self.folder = folder
        self.work = work
        self.logs = os.path.join(folder, "logs")
        self.record = record
        # Rank, pid and log folder of each local rank.
        self.by_local_rank: dict[int, tuple[int | None, int | None, str]] = {}
        self.seen: set[int | None] = set()
        # When the log of each local rank whose worker has not been seen was first seen, by the monotonic clock.
        self.logs_seen: dict[int, float] = {}
        # How many workers each local rank has had, because an elastic torchrun restarts them.
        self.started: dict[int, int] = {}
        self.streams: dict[str, str] = {}
        self.scanned = 0
        self.failed = False

    @property
    def complete(self) -> bool:
        """Whether a worker of every local rank has been seen."""
        return len(self.by_local_rank) >= self.nproc

    def find(self, child: int) -> None:
        """Record each new worker, with the rank that torchrun assigned to it.

        ``child``: process id of the supervisor's child, which is torchrun or starts torchrun's container.
        """
        self.torchrun = self.find_contained() or self.torchrun if self.contained else child
        for pid in self.candidates():
            local_rank = None if pid in self.seen else processes.variable(pid, "LOCAL_RANK")
            if local_rank is None:
                continue
            restart = processes.variable(pid, "TORCHELASTIC_RESTART_COUNT") or "0"
            folder = self.log_folder(int(local_rank), int(restart))
            rank = processes.variable(pid, "RANK")
            if folder is not None and rank is not None:
                self.add(int(local_rank), int(rank), pid, folder)
        self.find_logs(UNSEEN)

    def candidates(self) -> list[int]:
        """Return the processes that may be workers."""
        if self.below_mpirun:
            return self.find_scattered()
        return [] if self.torchrun is None else processes.children(self.torchrun)

    def find_contained(self) -> int | None:
        """Return the process id of torchrun in a container: the parent of the workers; None before it has any.

        The engine's processes between supervisor and torchrun differ, so the run's mark leads to the workers.
        """
        if self.torchrun is not None and processes.alive(self.torchrun):
            return self.torchrun
        for pid in processes.marked(*self.mark):
            parent = (processes.stat(pid) or ("", 0))[1]
            if processes.variable(pid, "LOCAL_RANK") and not processes.variable(parent, "LOCAL_RANK"):
                return parent
        return None

    def find_scattered(self) -> list[int]:
        """Return the workers that mpirun's daemons started: the first processes below them with a LOCAL_RANK."""
        return [
            pid
            for pid in processes.marked(*self.mark)
            if processes.variable(pid, "LOCAL_RANK")
            and not processes.variable((processes.stat(pid) or ("", 0))[1], "LOCAL_RANK")
        ]

    def starters(self) -> list[int]:
        """Return the process ids of orch's own processes between mpirun's daemon and the workers that live."""
        pids = [pid for _, pid, _ in self.by_local_rank.values()]
        return [(processes.stat(pid) or ("", 0))[1] for pid in pids if pid is not None and processes.alive(pid)]

    def find_logs(self, age: float = 0.0) -> None:
        """Record the workers that ended before they were seen, from logs seen ``age`` seconds ago or earlier."""
        now = time.monotonic()
        for local_rank in range(self.nproc):
            folder = None if local_rank in self.by_local_rank else self.log_folder(local_rank)
            if folder is not None and now - self.logs_seen.setdefault(local_rank, now) >= age:
                self.add(local_rank, self.expected_rank(local_rank), None, folder)

    def expected_rank(self, local_rank: int) -> int | None:
        """Return the rank of a worker that was not seen; None where torchrun assigns the ranks."""
        return None if self.first_rank is None else self.first_rank + local_rank

    def add(self, local_rank: int, rank: int | None, pid: int | None, folder: str) -> None:
        """Record a worker and its log folder."""
        self.by_local_rank[local_rank] = (rank, pid, folder)
        self.seen.add(pid)
        restart = self.started.get(local_rank, 0)
        self.started[local_rank] = restart + 1
        if restart:
            self.failed = False
        for name in ("stdout", "stderr"):
            self.streams[frames.stream_name(local_rank, restart, name)] = os.path.join(folder, name + ".log")
        logs = os.path.relpath(folder, self.folder)
        self.record(
            WorkerFound(time=time.time(), rank=rank, local_rank=local_rank, pid=pid, logs=logs, restart=restart)
        )

    def log_folder(self, local_rank: int, restart: int = 0) -> str | None:
        """Return the folder of a worker's output, ``<logs>/<id>/attempt_<restart>/<local_rank>``, or None."""
        for entry in os.listdir(self.logs):
            path = os.path.join(self.logs, entry, "attempt_%d" % restart, str(local_rank))
            if os.path.exists(os.path.join(path, "stdout.log")):
                return path
        return None

    def any_ended(self) -> bool:
        """Return whether a worker that was seen has ended."""
        return any(pid is not None and not processes.alive(pid) for _, pid, _ in self.by_local_rank.values())

    def find_failure(self) -> None:
        """Record the first worker whose failure torchrun logs, once for each start; cheap enough to call often."""
        path = os.path.join(self.logs, "torchrun.log")
        if self.failed or os.path.getsize(path) <= self.scanned:
            return
        with open(path, "rb") as file:
            file.seek(self.scanned)
            whole = file.read().rpartition(b"\n")
        self.scanned += len(whole[0]) + len(whole[1])
        found = FAILED.search(whole[0].decode("utf-8", "replace"))
        if found:
            local_rank = int(found.group("local_rank"))
            by_local_rank = self.by_local_rank.get(local_rank)
            rank = by_local_rank[0] if by_local_rank else self.expected_rank(local_rank)
            pid = int(found.group("pid"))
            if self.contained and by_local_rank and by_local_rank[1] is not None:
                # A container counts its processes by itself.
                pid = by_local_rank[1]
            self.record_failure(rank, local_rank, pid, int(found.group("code")), None)

    def find_summary(self) -> None:
        """Record the failure that torchrun's summary names, if none is recorded yet."""
        summary = None if self.failed else failure.summary(self.logs)
        if summary is not None:
            self.record_failure(*summary)

    def record_failure(
        self, rank: int | None, local_rank: int, pid: int, code: int, failed_at: float | None
    ) -> None:
        """Record that a worker failed, with its recorded exception and any full disks.

        ``code``: exit code, negative for a signal. ``failed_at``: seconds since the epoch, or None.
        """
        self.failed = True
        self.record(
            RankFailed(
                time=time.time(),
                rank=rank,
                local_rank=local_rank,
                pid=pid,
                exit_code=code if code >= 0 else None,
                signal=-code if code < 0 else None,
                failed_at=failed_at,
                message=failure.recorded_message(self.logs, local_rank),
                full_disks=tuple(full_disks([self.folder, self.work])),
            )
        )

    def files(self) -> dict[str, str]:
        """Return the existing log of each stream: ``{"torchrun": path, "0.stdout": path, ...}``."""
        files = dict(self.streams, torchrun=os.path.join(self.logs, "torchrun.log"))
        return {name: path for name, path in files.items() if os.path.exists(path)}

    def sizes(self) -> dict[str, int]:
        """Return the length of each stream in bytes."""
        return {name: os.path.getsize(path) for name, path in self.files().items()}

    def cut(self, limit: int) -> None:
        """Cut each log to ``limit`` bytes of disk; raises OSError where the file system cannot."""
        for path in self.files().values():
            logcut.cut(path, limit)


def full_disks(folders: Sequence[str]) -> list[str]:
    """Return the folders whose disk is full for this user."""
    found = []
    for folder in folders:
        status = os.statvfs(folder)
        if status.f_blocks and status.f_bavail * status.f_frsize < NO_ROOM:
            found.append(folder)
    return found
