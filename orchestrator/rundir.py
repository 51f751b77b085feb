"""A run's folder on the control machine: ``runs/<run_id>/``.

``plan.json``, ``events.jsonl``, ``logs/<node>/rank<N>.<stream>.log`` with the bytes as they were printed,
and ``<node>/`` with what the run wrote there.
"""

from __future__ import annotations

from pathlib import Path
from typing import IO

from orchestrator.core.events import Event, RunResult, fold
from orchestrator.core.plan import LaunchPlan
from orchestrator.core.torchrun import as_json
from orchestrator.errors import UsageError
from orchestrator.remote.gang import Output


class RunFolder:
    """Where one run is recorded while it goes on."""

    def __init__(self, path: Path, events: IO[str]) -> None:
        self.path = path
        self.events: list[Event] = []
        self._events_file = events
        self._logs: dict[str, IO[bytes]] = {}

    @classmethod
    def create(cls, base: Path, plan: LaunchPlan) -> RunFolder:
        """Make ``base/<run_id>`` and write the plan there; raises UsageError if it cannot be written."""
        path = base / plan.run_id
        try:
            path.mkdir(parents=True)
            # Recorded runs are not code: git, and orch's own sync, are to pass them by.
            ignore = base / ".gitignore"
            if not ignore.exists():
                ignore.write_text("*\n")
            (path / "plan.json").write_text(as_json(plan))
            return cls(path, (path / "events.jsonl").open("a"))
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}", remedy="pass another --runs-dir") from None

    def record(self, event: Event) -> None:
        """Keep an event."""
        self.events.append(event)
        self._events_file.write(event.to_json() + "\n")
        self._events_file.flush()
        if event.kind == "worker":
            # A rank that prints nothing has a log too, an empty one.
            self.log(Output(event.node or "?", event.fields["rank"], event.fields["local_rank"], "stdout", b""))

    def log(self, output: Output) -> None:
        """Append a piece of output to its log."""
        name = log_name(output)
        if name not in self._logs:
            file = self.path / "logs" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: the pieces are large, and a killed orch must not lose any.
            self._logs[name] = file.open("ab", buffering=0)
        self._logs[name].write(output.data)

    def node_folder(self, node: str) -> Path:
        """Where a node's outputs go."""
        return self.path / node

    def tail(self, node: str, rank: int | None, lines: int) -> list[str]:
        """The last lines of a rank's stderr, or of its stdout if that is empty; of torchrun's for None."""
        names = ["torchrun.log"] if rank is None else [f"rank{rank}.stderr.log", f"rank{rank}.stdout.log"]
        for name in names:
            file = self.path / "logs" / node / name
            if file.is_file() and file.stat().st_size:
                with file.open("rb") as opened:
                    opened.seek(max(0, file.stat().st_size - 64 * 1024))
                    text = opened.read().decode("utf-8", "replace")
                return [line.rpartition("\r")[2] for line in text.rstrip().split("\n")][-lines:]
        return []

    def result(self) -> RunResult:
        """What the events so far amount to."""
        return fold(self.events)

    def close(self) -> None:
        """Close all files."""
        self._events_file.close()
        for file in self._logs.values():
            file.close()


def log_name(output: Output) -> str:
    """Where a stream is kept below ``logs/``."""
    if output.stream == "torchrun":
        return f"{output.node}/torchrun.log"
    rank = f"rank{output.rank}" if output.rank is not None else f"local_rank{output.local_rank}"
    return f"{output.node}/{rank}.{output.stream}.log"
