"""Shows a list of recorded runs."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.table import Table
from rich.text import Text

from orchestrator.core.history.listed import RecordedRun
from orchestrator.core.inventory.hostrange import folded
from orchestrator.core.text.duration import duration
from orchestrator.ui.console import STATE_STYLES
from orchestrator.ui.display import Display

LEFT = "not followed to its end"


def show_recorded(display: Display, runs: Sequence[RecordedRun], hidden: int) -> None:
    """Show runs on stdout, the newest last, and how many earlier ones are ``hidden``. JSON: one object a line."""
    if display.as_json:
        for run in runs:
            display.write(json.dumps({**asdict(run), "duration": run.duration}) + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    headings = ("run", "name", "what", "began", "took", "nodes", "ended", "last metrics", "size")
    rows = [_cells(run) for run in runs]
    # A column in which no run has anything is left out.
    used = [at for at, heading in enumerate(headings) if any(row[at].plain for row in rows)]
    for at in used:
        shrinks = headings[at] in ("what", "ended", "last metrics")
        table.add_column(
            headings[at],
            no_wrap=True,
            overflow="ellipsis",
            min_width=None if shrinks else max(len(headings[at]), *(len(row[at]) for row in rows)),
        )
    for row in rows:
        table.add_row(*(row[at] for at in used))
    if runs:
        display.table(table)
    if hidden:
        display.note(f"{hidden} earlier: orch runs --all lists them, and --json, --failed, --since choose")


def _cells(run: RecordedRun) -> list[Text]:
    state = LEFT if run.state == "left" else run.state
    ended = Text(state, style=STATE_STYLES.get(run.state, ""))
    if run.what:
        ended.append(f": {run.what}", style="default")
    return [
        Text(run.run_id),
        Text(" ".join([*([run.name] if run.name else []), *(f"#{tag}" for tag in run.tags)])),
        Text(shlex.join([run.workload, *run.args])),
        Text(began(run.began)),
        Text("" if run.duration is None else duration(run.duration)),
        Text(folded(run.nodes)),
        ended,
        Text(metrics(run.metrics)),
        Text(size(run.size) if run.size else ""),
    ]


def began(moment: float | None) -> str:
    """Return a time as today's hour, or as a date: ``14:05``, ``Nov 26 14:05``, ``2025-11-26``."""
    if moment is None:
        return ""
    then, now = time.localtime(moment), time.localtime()
    if then[:3] == now[:3]:
        return time.strftime("%H:%M", then)
    return time.strftime("%b %d %H:%M" if then[0] == now[0] else "%Y-%m-%d", then)


def metrics(values: Mapping[str, float]) -> str:
    """Return metrics in a line: ``epoch 3, loss 0.0465``."""
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def size(count: int) -> str:
    """Return a number of bytes for people: ``12 kB``."""
    units = iter(("B", "kB", "MB", "GB", "TB"))
    value, unit = float(count), next(units)
    while value >= 1000 and unit != "TB":
        value, unit = value / 1000, next(units)
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
