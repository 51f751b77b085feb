"""Shows one recorded run in full, and how two runs differ."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.text import Text

from orchestrator.core.history.compare import Change, Comparison, FileChange, count_lines
from orchestrator.core.history.listed import RecordedRun
from orchestrator.core.history.record import Code, RunRecord
from orchestrator.core.run.telling import timeline
from orchestrator.core.text.counted import counted
from orchestrator.protocol.events import Event
from orchestrator.ui.display import Display
from orchestrator.ui.history.listing import LEFT, metrics, size

# Most lines of differing code that are shown without --full.
MOST_LINES = 60


def show_run(
    display: Display, run: RecordedRun, record: RunRecord | None, events: Sequence[Event], folder: Path
) -> None:
    """Show what a run was, how it ended, and what happened in it."""
    if display.as_json:
        known = None if record is None else asdict(record)
        timed = [{"time": moment, "what": what} for moment, what in timeline(events)]
        about = {**asdict(run), "record": known, "timeline": timed, "folder": str(folder)}
        display.write(json.dumps(about) + "\n")
        return
    rows = {"run": " ".join([run.run_id, *([f"({run.name})"] if run.name else [])])}
    rows["command"] = shlex.join(["orch", "run", run.workload, *run.args])
    if record is not None:
        rows |= _recorded(record)
    rows["nodes"] = ", ".join(run.nodes)
    rows["ended"] = LEFT if run.state == "left" else run.state
    if run.what:
        rows["ended"] += f": {run.what}"
    if run.metrics:
        rows["metrics"] = metrics(run.metrics)
    if run.tags:
        rows["tags"] = ", ".join(run.tags)
    rows |= {f"note {number}": note for number, note in enumerate(run.notes, start=1)}
    rows["folder"] = f"{folder} ({size(run.size)})"
    display.named(rows)
    display.write("\n")
    began = run.began or (events[0].time if events else 0.0)
    display.write(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(began))}\n")
    for moment, what in timeline(events):
        display.write(f"{moment - began:+9.1f} s  {what}\n")


def _recorded(record: RunRecord) -> dict[str, str]:
    rows = {"hosts": f"--hosts {record.place.hosts}, in {record.place.folder}"}
    if record.code is not None:
        rows["code"] = _code(record.code)
    variables = {**record.spec.get("local", {}), **record.spec.get("env", {})}
    if variables:
        rows["variables"] = " ".join(f"{name}={value}" for name, value in variables.items())
    rows["python"] = "; ".join(record.python)
    return rows


def _code(code: Code) -> str:
    about = f"{code.root}, tree {code.tree[:8]} ({counted(code.files, 'file')}, {size(code.size)})"
    if code.git is None:
        return f"{about}, no git commit"
    branch = f" on {code.git.branch}" if code.git.branch else ""
    dirty = ", with changes that were not committed (code.diff)" if code.git.dirty else ""
    return f"{about}, commit {code.git.commit[:12]}{branch} {code.git.subject!r}{dirty}"


def show_comparison(display: Display, found: Comparison, ids: tuple[str, str], full: bool) -> None:
    """Show how the second run differs from the first."""
    if display.as_json:
        display.write(json.dumps({"before": ids[0], "after": ids[1], **asdict(found)}) + "\n")
        return
    for heading, changed in (
        ("arguments", found.arguments),
        ("options", found.options),
        ("environment", found.environment),
    ):
        _show_changes(display, heading, changed)
    if found.code is None:
        display.note("the code of one of these runs was not kept, so it is not compared")
    elif found.code:
        display.write("code\n")
        for each in found.code:
            _show_file(display, each, full)
    _show_changes(display, "metrics", found.metrics)
    if not found:
        display.write("the runs do not differ\n")


def _show_changes(display: Display, heading: str, changed: Sequence[Change]) -> None:
    if not changed:
        return
    display.write(f"{heading}\n")
    width = max(len(each.name) for each in changed)
    for each in changed:
        before, after = ("-" if value is None else value or "(given)" for value in (each.before, each.after))
        display.write(f"  {each.name:<{width}}  {before} → {after}\n")


STYLES: Mapping[str, str] = {"+": "green", "-": "red", "@": "cyan"}


def _show_file(display: Display, changed: FileChange, full: bool) -> None:
    added, removed = count_lines(changed.lines)
    lines = f" (+{added} -{removed})" if changed.lines else ""
    display.write(f"  {changed.path}: {changed.kind}{lines}\n")
    shown = changed.lines[2:] if full else changed.lines[2 : 2 + MOST_LINES]
    for line in shown:
        style = STYLES.get(line[:1], "") if display.coloured else ""
        display.out.print(Text(f"    {line}", style=style))
    if len(shown) < len(changed.lines) - 2:
        display.note(f"    {len(changed.lines) - 2 - len(shown)} lines more: --full")
