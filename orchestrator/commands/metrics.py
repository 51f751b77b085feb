"""``orch runs metrics`` and ``orch runs plot``: list and draw what recorded runs measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.history.listed import RecordedRun
from orchestrator.core.metrics.series import Series, chosen, names
from orchestrator.errors import UsageError
from orchestrator.local.history.metrics import read_metrics
from orchestrator.local.history.picture import write_picture
from orchestrator.local.history.runs import read_run
from orchestrator.operations.history.finding import find_id
from orchestrator.ui.display import Display
from orchestrator.ui.history.curves import show_curves, show_metrics


@dataclass(frozen=True)
class Choice:
    """What to draw of each run. ``rank``: whose output is read, by ``pattern``. ``smooth``: values in a mean."""

    metric: str | None
    source: str | None
    rank: int
    pattern: str | None
    over_time: bool
    smooth: int


def listed(base: Path, word: str, rank: int, pattern: str | None, display: Display) -> int:
    """List a run's metrics, and return 0. Raises UsageError."""
    run = read_run(base / find_id(base, word))
    found = read_metrics(base / run.run_id, run.nodes, rank, pattern)
    show_metrics(display, found)
    if not found and not display.as_json:
        display.write(f"run {run.run_id} has no metrics (docs/metrics.md)\n")
    return 0


def plotted(
    base: Path, words: Sequence[str], choice: Choice, log: bool, output: Path | None, display: Display
) -> int:
    """Draw a metric of runs in the terminal, or write the picture ``output``. Return 0. Raises UsageError."""
    found: list[tuple[str, Series]] = []
    for run_id in dict.fromkeys(find_id(base, word) for word in words):
        run = read_run(base / run_id)
        found.append(
            (
                _title(run),
                _chosen(run, read_metrics(base / run_id, run.nodes, choice.rank, choice.pattern), choice),
            )
        )
    what = "hours" if choice.over_time else "step"
    if output is None:
        show_curves(display, found, what, log=log)
    else:
        write_picture(output, found, what, log=log)
        display.write(f"{output}\n")
    return 0


def _chosen(run: RecordedRun, series: Sequence[Series], choice: Choice) -> Series:
    metric = choice.metric
    if metric is None and len({each.name for each in series}) == 1:
        metric = series[0].name
    if metric is None and series:
        raise UsageError("say which metric to draw", remedy=f"--metric: run {run.run_id} has {names(series)}")
    found = chosen(series, metric or "", choice.source, run.run_id).smoothed(choice.smooth)
    if choice.over_time:
        found = found.over_time()
        if not len(found):
            raise UsageError(
                f"{found.source} of run {run.run_id} does not say when its values were written",
                remedy="draw them over --x step",
            )
    return found


def _title(run: RecordedRun) -> str:
    return f"{run.run_id} ({run.name})" if run.name else run.run_id
