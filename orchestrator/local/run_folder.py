"""A run's folder on the control machine: ``runs/<run_id>/``.

It holds ``plan.json``, ``events.jsonl``, ``logs/<node>/rank<N>.<stream>.log`` with the bytes as they were printed
(those of a later attempt in ``logs/<node>/attempt<K>/``), and ``<node>/`` with the node's outputs. The folder has
one writer at a time; ``.writer`` is its lock.
"""

from __future__ import annotations

import fcntl
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from orchestrator.core.launch.plan import LaunchPlan
from orchestrator.core.launch.script.json import as_json
from orchestrator.core.run.output import Output
from orchestrator.core.run.result import RunResult, fold
from orchestrator.errors import CannotRecord, UsageError
from orchestrator.protocol import VERSION
from orchestrator.protocol.events import OF_NODES, Event, LogCut, Planned, WorkerFound, from_line, to_line
from orchestrator.protocol.shapes import Misshapen

TAIL_BYTES = 64 * 1024
LONGEST_LINE = 500
# Most logs open at a time: some machines allow a process 256 open files, and connections need some of them.
MOST_OPEN = 64


class RunFolder:
    """The record of one run; ``attempt`` is the one whose logs are being written.

    ``writing`` is false while another process records the run: then nothing is written. A write that fails, as on
    a full disk, raises CannotRecord.
    """

    def __init__(self, path: Path, events: list[Event]) -> None:
        self.path = path
        self.events = events
        self.attempt = 1
        self._lock = (path / ".writer").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.writing = True
        except BlockingIOError:
            self.writing = False
        except OSError:
            # The file system does not support locks.
            self.writing = True
        self._events_file = (path / "events.jsonl").open("a") if self.writing else None
        self._logs: OrderedDict[str, IO[bytes]] = OrderedDict()

    @classmethod
    def create(cls, base: Path, plan: LaunchPlan) -> RunFolder:
        """Make ``base/<run_id>`` and write the plan there. Raises UsageError if the folder cannot be written."""
        folder = cls.open(base, plan.run_id)
        try:
            folder.keep_plan(plan)
        except CannotRecord as error:
            raise UsageError(error.message, remedy="make room, or pass another --runs-dir") from None
        return folder

    @classmethod
    def open(cls, base: Path, run_id: str) -> RunFolder:
        """Open a run's folder with what an earlier control process recorded there, or make a new one.

        Raises UsageError if the folder cannot be written or read.
        """
        path = base / run_id
        try:
            path.mkdir(parents=True, exist_ok=True)
            # Recorded runs are not code: git and orch's own sync must ignore them.
            ignore = base / ".gitignore"
            if not ignore.exists():
                ignore.write_text("*\n")
            found = cls(path, [])
            found.events += read_events(path, mend=found.writing)
            return found
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}", remedy="pass another --runs-dir") from None
        except (ValueError, KeyError) as error:
            raise UsageError(f"{path / 'events.jsonl'} is damaged: {error}", remedy="move the file away") from None

    def keep_plan(self, plan: LaunchPlan) -> None:
        """Write an attempt's plan: ``plan.json``, ``plan.attempt2.json``. Raises CannotRecord."""
        name = "plan.json" if plan.attempt == 1 else f"plan.attempt{plan.attempt}.json"
        with self._recording():
            (self.path / name).write_text(as_json(plan))

    def begin(self, nodes: list[str], attempt: int, min_nodes: int | None = None) -> None:
        """Record that an attempt starts on these nodes; an elastic one needs ``min_nodes`` of them."""
        self.record(
            Planned(
                time=time.time(),
                nodes=tuple(nodes),
                attempt=attempt,
                min_nodes=min_nodes,
                version=VERSION,
            )
        )

    def record(self, event: Event) -> None:
        """Record an event."""
        self.events.append(event)
        if self._events_file is not None:
            with self._recording():
                self._events_file.write(to_line(event) + "\n")
                self._events_file.flush()
        if isinstance(event, Planned):
            self.attempt = event.attempt
        if isinstance(event, WorkerFound):
            # A rank that prints nothing gets an empty log.
            self.log(_of_worker(event, "stdout"))

    def log(self, output: Output) -> None:
        """Append a piece of output to its log. A line marks where the node left output out, and how much."""
        if not self.writing:
            return
        data = output.data
        if output.skipped:
            data = b"\n[orch: %d bytes are not kept]\n" % output.skipped + data
            cut = LogCut(
                time=time.time(),
                node=output.node,
                rank=output.rank,
                local_rank=output.local_rank,
                stream=output.stream,
                restart=output.restart,
                skipped=output.skipped,
                added=len(data) - len(output.data),
            )
            self.record(cut)
        with self._recording():
            file = self._logs.get(name := self._log_name(output))
            if file is None:
                path = self.path / "logs" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                while len(self._logs) >= MOST_OPEN:
                    self._logs.popitem(last=False)[1].close()
                # Unbuffered: the pieces are large, and a killed orch must not lose any.
                file = self._logs[name] = path.open("ab", buffering=0)
            self._logs.move_to_end(name)
            file.write(data)

    @contextmanager
    def _recording(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CannotRecord(
                f"cannot write to {self.path}: {error.strerror}",
                remedy=f"the run goes on; make room here, then: orch attach {self.path.name}",
            ) from None

    def offsets(self) -> dict[str, dict[str, int]]:
        """Return how much of the newest attempt is recorded, by node: see ``remote.node_client.SshNodeClient``."""
        found: dict[str, dict[str, int]] = {}
        for event in self.events:
            if isinstance(event, Planned):
                found = {node: {} for node in event.nodes}
                self.attempt = event.attempt
            elif event.node is not None and event.KIND in OF_NODES:
                mine = found.setdefault(event.node, {})
                mine["events"] = mine.get("events", 0) + 1
                if isinstance(event, WorkerFound):
                    for output in (_of_worker(event, "stdout"), _of_worker(event, "stderr")):
                        mine[output.name] = self._size(output)
        for node, mine in found.items():
            mine["torchrun"] = self._size(Output(node, None, None, "torchrun", b""))
        for cut in self._cuts():
            # The node's log has the bytes that were left out here, and not the line that says so.
            output = Output(cut.node or "?", cut.rank, cut.local_rank, cut.stream, b"", cut.restart)
            known = found.get(output.node, {})
            if output.name in known:
                known[output.name] += cut.skipped - cut.added
        return found

    def _cuts(self) -> list[LogCut]:
        """Return the cuts in the newest attempt's logs."""
        begun = max((n for n, event in enumerate(self.events) if isinstance(event, Planned)), default=0)
        return [event for event in self.events[begun:] if isinstance(event, LogCut)]

    def node_folder(self, node: str) -> Path:
        """Return the folder for a node's outputs."""
        return self.path / node

    def tails(self) -> Iterator[tuple[str, int | None, str]]:
        """Yield ``(node, rank, text)`` for the end of each log of this attempt; rank is None for torchrun's.

        The logs of workers whose rank is not known are left out: no rank could be blamed for what they say.
        """
        for node in self.result().nodes:
            folder = self.path / "logs" / self._log_folder(node)
            for file in sorted(folder.glob("*.log")):
                word = file.name.partition(".")[0]
                if not word.startswith("local_rank"):
                    yield node, int(word[4:]) if word.startswith("rank") else None, _tail(file)

    def last_lines(self, node: str, rank: int | None, lines: int) -> list[str]:
        """Return the last lines of a rank's stderr, or of its stdout if that is empty; None means torchrun."""
        folder = self.path / "logs" / self._log_folder(node)
        files = [folder / "torchrun.log"]
        if rank is not None:
            found = [folder.glob(f"rank{rank}.*{stream}.log") for stream in ("stderr", "stdout")]
            # An elastic run's rank has a log for each start; the newest comes first.
            files = [each for paths in found for each in sorted(paths, key=lambda path: -path.stat().st_mtime_ns)]
        for file in files:
            text = _tail(file).rstrip()
            if text:
                return [line.rpartition("\r")[2][:LONGEST_LINE] for line in text.split("\n")[-lines:]]
        return []

    def result(self) -> RunResult:
        """Return the result that the events so far add up to."""
        return fold(self.events)

    def close(self) -> None:
        """Close all files and release the lock."""
        if self._events_file is not None:
            self._events_file.close()
        self._lock.close()
        for file in self._logs.values():
            file.close()

    def _log_folder(self, node: str) -> str:
        return node if self.attempt == 1 else f"{node}/attempt{self.attempt}"

    def _log_name(self, output: Output) -> str:
        name = "torchrun.log"
        if output.stream != "torchrun":
            rank = f"rank{output.rank}" if output.rank is not None else f"local_rank{output.local_rank}"
            restart = f"restart{output.restart}." if output.restart else ""
            name = f"{rank}.{restart}{output.stream}.log"
        return f"{self._log_folder(output.node)}/{name}"

    def _size(self, output: Output) -> int:
        path = self.path / "logs" / self._log_name(output)
        return path.stat().st_size if path.exists() else 0


def _of_worker(event: WorkerFound, stream: str) -> Output:
    return Output(event.node or "?", event.rank, event.local_rank, stream, b"", event.restart)


def read_events(path: Path, *, mend: bool = True) -> list[Event]:
    """Return the events recorded in a run's folder, skipping lines that a power cut damaged.

    ``mend``: remove half a line at the end from the file.
    """
    file = path / "events.jsonl"
    if not file.exists():
        return []
    text = file.read_text(errors="replace")
    whole = text[: text.rfind("\n") + 1]
    if whole != text and mend:
        # A killed orch left half a line; the next event must not be joined to it.
        file.write_text(whole)
    found = []
    for line in whole.splitlines():
        with suppress(Misshapen):
            found.append(from_line(line.lstrip("\0")))
    return found


def _tail(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return file.read().decode("utf-8", "replace")
