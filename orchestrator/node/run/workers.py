"""The workers that torchrun starts: which ranks they are, where their output is, and which of them failed."""

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

# torchrun's log, as soon as it notices (torch/distributed/elastic/multiprocessing/api.py); its summary comes
# only when its other workers have ended too.
FAILED = re.compile(r"failed \(exitcode: (?P<code>-?\d+)\) local_rank: (?P<local_rank>\d+) \(pid: (?P<pid>\d+)\)")


# A disk with less free space than this, in bytes, counts as full.
NO_ROOM = 256 * 1024


class Workers:
    """The workers of one torchrun. ``record(event)`` is told of each."""

    def __init__(self, request: Start, folder: str, work: str, record: Callable[[Event], None]) -> None:
        self.nproc = request.nproc
        self.first_rank = request.first_rank
        self.folder = folder
        self.work = work
        self.logs = os.path.join(folder, "logs")
        self.record = record
        # Rank, pid and log folder of each local rank.
        self.known: dict[int, tuple[int | None, int | None, str]] = {}
        self.seen: set[int | None] = set()
        # How many workers of each local rank there were: an elastic torchrun starts them again.
        self.started: dict[int, int] = {}
        self.streams: dict[str, str] = {}
        self.scanned = 0
        self.failed = False

    @property
    def complete(self) -> bool:
        """Whether all have been seen."""
        return len(self.known) >= self.nproc

    def find(self, torchrun_pid: int) -> None:
        """Record each worker that has appeared, with the rank that torchrun gave it."""
        for pid in processes.children(torchrun_pid):
            local_rank = None if pid in self.seen else processes.variable(pid, "LOCAL_RANK")
            if local_rank is None:
                continue
            restart = processes.variable(pid, "TORCHELASTIC_RESTART_COUNT") or "0"
            folder = self.log_folder(int(local_rank), int(restart))
            rank = processes.variable(pid, "RANK")
            if folder is not None and rank is not None:
                self.add(int(local_rank), int(rank), pid, folder)

    def find_logs(self) -> None:
        """Record the workers that came and went unseen, by the logs they left."""
        for local_rank in range(self.nproc):
            folder = self.log_folder(local_rank)
            if local_rank not in self.known and folder is not None:
                self.add(local_rank, self.expected_rank(local_rank), None, folder)

    def expected_rank(self, local_rank: int) -> int | None:
        """The rank of a worker that was not seen; None where torchrun hands out the ranks."""
        return None if self.first_rank is None else self.first_rank + local_rank

    def add(self, local_rank: int, rank: int | None, pid: int | None, folder: str) -> None:
        """Record a worker and where its output is."""
        self.known[local_rank] = (rank, pid, folder)
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
        """torchrun's folder of one worker's output, or None: ``<logs>/<id>/attempt_<restart>/<local_rank>``."""
        for entry in os.listdir(self.logs):
            path = os.path.join(self.logs, entry, "attempt_%d" % restart, str(local_rank))
            if os.path.exists(os.path.join(path, "stdout.log")):
                return path
        return None

    def any_ended(self) -> bool:
        """Whether a worker that was seen is no longer there."""
        return any(pid is not None and not processes.alive(pid) for _, pid, _ in self.known.values())

    def find_failure(self) -> None:
        """Record the first worker that torchrun says has failed, once a start; cheap to call often."""
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
            known = self.known.get(local_rank)
            rank = known[0] if known else self.expected_rank(local_rank)
            self.record_failure(rank, local_rank, int(found.group("pid")), int(found.group("code")), None)

    def find_summary(self) -> None:
        """Record the failure that torchrun's last words name, if none was recorded before."""
        summary = None if self.failed else failure.summary(self.logs)
        if summary is not None:
            self.record_failure(*summary)

    def record_failure(
        self, rank: int | None, local_rank: int, pid: int, code: int, failed_at: float | None
    ) -> None:
        """Record that a worker failed, with what it left behind."""
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
        """The log of each stream that has one: ``{"torchrun": path, "0.stdout": path, ...}``."""
        files = dict(self.streams, torchrun=os.path.join(self.logs, "torchrun.log"))
        return {name: path for name, path in files.items() if os.path.exists(path)}

    def sizes(self) -> dict[str, int]:
        """How many bytes each stream has."""
        return {name: os.path.getsize(path) for name, path in self.files().items()}

    def cut(self, limit: int) -> None:
        """Keep each log within so many bytes of disk; raises OSError where that cannot be done."""
        for path in self.files().values():
            logcut.cut(path, limit)


def full_disks(folders: Sequence[str]) -> list[str]:
    """Which of the folders are on a disk without room, for this user."""
    found = []
    for folder in folders:
        status = os.statvfs(folder)
        if status.f_blocks and status.f_bavail * status.f_frsize < NO_ROOM:
            found.append(folder)
    return found
