"""Shows a list of runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from rich.table import Table
from rich.text import Text

from orchestrator.core.inventory.hostrange import folded
from orchestrator.core.run.listing import ListedRun
from orchestrator.core.text.counted import counted
from orchestrator.core.text.duration import duration
from orchestrator.ui.console import STATE_STYLES
from orchestrator.ui.display import Display


def show_runs(display: Display, runs: Sequence[ListedRun], everything: bool) -> None:
    """Show runs on stdout; with ``--json`` one object a line."""
    if display.as_json:
        for run in runs:
            display.write(json.dumps(asdict(run)) + "\n")
        return
    if not runs:
        display.write("no runs\n" if everything else "no run is active (orch ps --all lists ended runs)\n")
        return
    display.table(runs_table(runs))


def runs_table(runs: Sequence[ListedRun]) -> Table:
    """Return a table of runs, one a row."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    rows = [_run_cells(run) for run in runs]
    for position, heading in enumerate(
        ("run", "workload", "age", "nodes", "ranks", "state", "owner", "last line")
    ):
        # Only the last two columns may shrink on a narrow terminal.
        width = max(len(heading), *(len(row[position]) for row in rows)) if position < 6 else None
        table.add_column(heading, no_wrap=True, overflow="ellipsis", min_width=width)
    for run, row in zip(runs, rows, strict=True):
        row[5] = Text(row[5].plain, style=STATE_STYLES.get(run.state, ""))
        table.add_row(*row)
    return table


def _run_cells(run: ListedRun) -> list[Text]:
    """Return the cells of a run's row."""
    state = f"{run.state} ({counted(run.leftovers, 'process')})" if run.leftovers else run.state
    state += f", attempt {run.attempt}" if run.attempt > 1 else ""
    nodes = folded(run.nodes) + (f" (no answer: {folded(run.missing)})" if run.missing else "")
    since = "-" if run.age is None else duration(run.age)
    words = (run.run_id, run.workload, since, nodes, str(run.ranks), state, run.owner, run.last_line or "")
    return [Text(word) for word in words]
