"""What the page is told of recorded runs, as values of JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from typing import Any

from orchestrator.core.history.listed import RecordedRun
from orchestrator.core.metrics.series import Series, finite, thinned
from orchestrator.core.run.result import RunResult, fold
from orchestrator.core.run.telling import timeline
from orchestrator.local.history.metrics import measured_files, read_metrics
from orchestrator.local.history.runs import RUN_ID, read_record, read_run, recorded_runs
from orchestrator.local.history.samples import read_samples
from orchestrator.local.run_folder import read_events
from orchestrator.protocol.events import Diagnosed, Event, Hang, Straggler

# Points of a curve, and columns of a strip, that the page gets at the most.
MOST_POINTS, MOST_COLUMNS = 1000, 240
# How many runs' metrics are kept in memory.
KEPT = 8


class Runs:
    """The runs of one runs folder. Threads may ask at the same time."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self._measured: dict[str, tuple[object, list[Series]]] = {}
        self._lock = Lock()

    def listed(self) -> list[dict[str, Any]]:
        """Return all runs, the newest first."""
        return [_run(run) for run in reversed(recorded_runs(self.base))]

    def folder(self, run_id: str) -> Path | None:
        """Return a run's folder; None if there is no such run."""
        folder = self.base / run_id
        return folder if RUN_ID.fullmatch(run_id) and folder.is_dir() else None

    def shown(self, folder: Path) -> dict[str, Any]:
        """Return one run in full."""
        run, record, events = read_run(folder), read_record(folder), read_events(folder, mend=False)
        result = fold(events)
        return {
            **_run(run),
            "nodes": [_node(result, name) for name in result.nodes],
            "attempt": result.attempt,
            "timeline": [{"time": moment, "what": what} for moment, what in timeline(events)],
            "cause": _cause(events),
            "told": [_told(event) for event in events if isinstance(event, Hang | Straggler)],
            "logs": sorted(
                path.relative_to(folder / "logs").as_posix() for path in (folder / "logs").rglob("*.log")
            ),
            "code": None if record is None or record.code is None else asdict(record.code),
            "world_size": None if record is None else record.world_size,
            "folder": str(folder),
        }

    def metrics(self, folder: Path) -> list[dict[str, Any]]:
        """Return the metrics of a run, without their values."""
        return [
            {"name": each.name, "source": each.source, "values": len(each), "last": finite(each.values[-1])}
            for each in self.series(folder)
        ]

    def curves(self, folder: Path, metric: str) -> list[dict[str, Any]]:
        """Return the first series of a metric, thinned: a list of one, or none."""
        for each in self.series(folder):
            if each.name == metric:
                points = thinned(each, MOST_POINTS)
                return [{"run": folder.name, "source": each.source, "points": points}]
        return []

    def series(self, folder: Path) -> list[Series]:
        """Return the metrics of a run, read again only if its files have changed."""
        nodes = read_run(folder).nodes
        stamp = [(str(path), path.stat().st_size) for path in measured_files(folder, nodes, 0)]
        with self._lock:
            known = self._measured.get(folder.name)
            if known is None or known[0] != stamp:
                known = stamp, read_metrics(folder, nodes, 0, None)
            self._measured.pop(folder.name, None)
            self._measured[folder.name] = known
            while len(self._measured) > KEPT:
                self._measured.pop(next(iter(self._measured)))
            return known[1]

    def loads(self, folder: Path) -> dict[str, Any]:
        """Return the load of each node, of its processors and of each GPU, as columns of equal time."""
        rows = read_samples(folder)
        if not rows:
            return {"began": None, "ended": None, "nodes": {}}
        began, ended = rows[0]["time"], max(row["time"] for row in rows)
        width = max(1, min(MOST_COLUMNS, len(rows)))
        nodes: dict[str, dict[str, list[list[float]]]] = {}
        for row in rows:
            column = min(width - 1, int((row["time"] - began) / max(ended - began, 1e-9) * width))
            for name, value in _strips(row):
                strip = nodes.setdefault(row["node"], {}).setdefault(name, [[] for _ in range(width)])
                strip[column].append(value)
        means = {
            node: {
                name: [sum(part) / len(part) if part else None for part in strip] for name, strip in strips.items()
            }
            for node, strips in nodes.items()
        }
        return {"began": began, "ended": ended, "nodes": means}


def _run(run: RecordedRun) -> dict[str, Any]:
    return {**asdict(run), "duration": run.duration}


def _node(result: RunResult, name: str) -> dict[str, Any]:
    node = result.nodes[name]
    failures = [failure for failure in result.failures if failure.node == name]
    failed = {failure.rank for failure in failures}
    return {
        "name": name,
        # A node whose rank failed is stopped, as the others are.
        "state": "failed" if failures and node.state == "stopped" else node.state,
        "ranks": [
            {"rank": rank, "state": "failed" if rank in failed else node.state} for rank in sorted(node.ranks)
        ],
    }


def _cause(events: Sequence[Event]) -> dict[str, Any] | None:
    found = next((event for event in reversed(events) if isinstance(event, Diagnosed)), None)
    if found is None:
        return None
    return {"what": found.what, "cause": found.cause, "remedy": found.remedy, "evidence": list(found.evidence)}


def _told(event: Hang | Straggler) -> dict[str, Any]:
    return {"time": event.time, "what": event.what, "remedy": event.remedy}


def _strips(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    yield "cpu", row["cpu"]
    for number, gpu in enumerate(row["gpus"]):
        yield f"gpu {number}", gpu[0]
