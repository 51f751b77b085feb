"""The runs folder: what is recorded of each run, read fast enough for thousands.

What is known of a run that has ended does not change, except by its user's labels, so it is kept in
``.index.json``, with the times of the files that it came from.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.core.history.listed import Ending, RecordedRun, ending
from orchestrator.core.history.record import RunRecord, from_json
from orchestrator.core.metrics.texts import TIMES
from orchestrator.errors import UsageError
from orchestrator.protocol.events import Event, from_line
from orchestrator.protocol.shapes import Misshapen

RUN_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{4,}")
# Where runs write metrics: in the working folder, or in ``$ORCH_OUTPUT_DIR``.
METRICS = ("metrics.jsonl", "orch-output/metrics.jsonl")
RECORD, LABELS, INDEX = "run.json", "labels.json", ".index.json"
# The last events of a run tell how it ended; they fit into so many bytes.
TAIL = 64 * 1024
# A line of metrics is shorter than this.
LAST_LINE = 8 * 1024
INDEX_VERSION = 2


@dataclass(frozen=True)
class Labels:
    """What the user wrote about a run afterwards."""

    tags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def run_ids(base: Path) -> list[str]:
    """Return the ids of the recorded runs, the oldest first."""
    try:
        return sorted(each.name for each in os.scandir(base) if RUN_ID.fullmatch(each.name))
    except OSError:
        return []


def recorded_runs(base: Path) -> list[RecordedRun]:
    """Return all runs of a runs folder, the oldest first; none if there is no such folder."""
    known = _read_index(base)
    found, kept = [], {}
    for run_id in run_ids(base):
        stamp = _stamp(base / run_id)
        before = known.get(run_id)
        run = before[1] if before is not None and before[0] == stamp else read_run(base / run_id)
        if run.state not in ("running", "left"):
            kept[run_id] = (stamp, run)
        found.append(run)
    if kept != known:
        _write_index(base, kept)
    return found


def read_run(folder: Path) -> RecordedRun:
    """Return what is recorded of one run."""
    labels = read_labels(folder)
    ended = read_ending(folder)
    record = read_record(folder)
    if record is None:
        known = _from_plan(folder)
    else:
        known = RecordedRun(
            run_id=record.run_id,
            workload=record.workload,
            args=record.args,
            nodes=record.nodes,
            state="left",
            name=record.name,
            began=record.began,
        )
    return replace(
        known,
        state=ended.state,
        ended=ended.ended,
        exit_code=ended.exit_code,
        what=ended.what,
        metrics=last_metrics(folder, known.nodes),
        size=0 if ended.state == "running" else size_of(folder),
        tags=labels.tags,
        notes=labels.notes,
    )


def read_record(folder: Path) -> RunRecord | None:
    """Return the record of a run; None if it was started by an orch that wrote none, or the file is damaged."""
    try:
        return from_json((folder / RECORD).read_text())
    except (OSError, ValueError, TypeError, KeyError):
        return None


def read_ending(folder: Path) -> Ending:
    """Return how a run ended, or that it is running."""
    return ending(last_events(folder), is_recorded(folder))


def last_events(folder: Path) -> list[Event]:
    """Return the events of a run that the end of its record holds."""
    found = []
    for line in _tail(folder / "events.jsonl", TAIL):
        # The other kinds are many, and say nothing about the end.
        if any(f'"{kind}"' in line for kind in ("planned", "diagnosed", "run_finished")):
            with suppress(Misshapen):
                found.append(from_line(line))
    return found


def is_recorded(folder: Path) -> bool:
    """Return whether a process records the run now."""
    try:
        with (folder / ".writer").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
    except BlockingIOError:
        return True
    except OSError:
        return False


def last_metrics(folder: Path, nodes: tuple[str, ...]) -> dict[str, float]:
    """Return the newest value of each metric that the first node with a ``metrics.jsonl`` wrote."""
    for path in (folder / node / place for node in nodes for place in METRICS):
        for line in reversed(_tail(path, LAST_LINE)):
            with suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    numbers = (int, float)
                    return {
                        name: each
                        for name, each in value.items()
                        if isinstance(each, numbers) and not isinstance(each, bool) and name not in TIMES
                    }
    return {}


def read_labels(folder: Path) -> Labels:
    """Return a run's tags and notes."""
    try:
        value = json.loads((folder / LABELS).read_text())
        return Labels(tuple(map(str, value["tags"])), tuple(map(str, value["notes"])))
    except (OSError, ValueError, TypeError, KeyError):
        return Labels()


def write_labels(folder: Path, labels: Labels) -> None:
    """Replace a run's tags and notes. Raises UsageError if the folder cannot be written."""
    try:
        write_whole(folder / LABELS, json.dumps(asdict(labels)))
    except OSError as error:
        raise UsageError(f"cannot write {folder / LABELS}: {error.strerror}") from None


def remove_run(folder: Path) -> None:
    """Remove a run's folder. Raises UsageError if it cannot be removed.

    It is renamed first, so that no half of it is ever listed as a run.
    """
    away = folder.with_name(f".removed-{folder.name}")
    try:
        folder.rename(away)
        shutil.rmtree(away)
    except OSError as error:
        raise UsageError(f"cannot remove {folder}: {error.strerror}") from None


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    total = 0
    waiting = [str(folder)]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as inside:
            for each in inside:
                if each.is_dir(follow_symlinks=False):
                    waiting.append(each.path)
                else:
                    total += each.stat(follow_symlinks=False).st_size
    return total


def write_whole(path: Path, text: str) -> None:
    """Write a file so that its readers see all of it or the one before. Raises OSError."""
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    beside.write_text(text)
    beside.replace(path)


def _from_plan(folder: Path) -> RecordedRun:
    """Return what the plan tells of a run without a record."""
    spec: Mapping[str, Any] = {}
    nodes: tuple[str, ...] = ()
    with suppress(OSError, ValueError, TypeError, KeyError):
        plan = json.loads((folder / "plan.json").read_text())
        spec = plan["spec"]
        nodes = tuple(each["node"] for each in plan["nodes"])
    began = None
    with suppress(ValueError):
        began = time.mktime(time.strptime(folder.name[:15], "%Y%m%d-%H%M%S"))
    workload = spec.get("workload")
    name = str(workload.get("name", "?")) if isinstance(workload, dict) else "?"
    return RecordedRun(folder.name, name, tuple(spec.get("args", ())), nodes, "left", began=began)


def _tail(path: Path, size: int) -> list[str]:
    """Return the whole lines within the last ``size`` bytes of a file; none if there is no such file."""
    try:
        with path.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            file.seek(max(0, length - size))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    lines = text[: text.rfind("\n") + 1].splitlines()
    return lines[1:] if length > size else lines


def _stamp(folder: Path) -> tuple[int, ...]:
    """Return what changes when a run's record or its labels do."""
    found = []
    for name in ("events.jsonl", LABELS):
        try:
            status = (folder / name).stat()
            found += [status.st_mtime_ns, status.st_size]
        except OSError:
            found.append(0)
    return tuple(found)


def _read_index(base: Path) -> dict[str, tuple[tuple[int, ...], RecordedRun]]:
    try:
        value = json.loads((base / INDEX).read_text())
        if value["version"] != INDEX_VERSION:
            return {}
        return {name: (tuple(stamp), RecordedRun.from_json(run)) for name, (stamp, run) in value["runs"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def _write_index(base: Path, runs: Mapping[str, tuple[tuple[int, ...], RecordedRun]]) -> None:
    """Keep what is known of ended runs. Where it cannot be kept, it is read again the next time."""
    value = {
        "version": INDEX_VERSION,
        "runs": {name: [stamp, vars(run)] for name, (stamp, run) in runs.items()},
    }
    with suppress(OSError):
        write_whole(base / INDEX, json.dumps(value))


def folders_of_nodes(folder: Path) -> Iterator[Path]:
    """Yield the folders of a run that hold nodes' outputs."""
    for each in sorted(folder.iterdir()):
        if each.is_dir() and each.name != "logs":
            yield each
