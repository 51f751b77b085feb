"""Remove recorded runs, and the code that no other run needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.core.history.listed import RecordedRun
from orchestrator.errors import UsageError
from orchestrator.local.history.code import CodeStore
from orchestrator.local.history.runs import read_record, read_run, recorded_runs, remove_run, run_ids


def remove(base: Path, ids: Sequence[str], force: bool) -> list[RecordedRun]:
    """Remove runs from this machine; what is on the hosts stays. Return what they were.

    Raises UsageError, before any is removed, for a run that is going on, or may be, unless ``force``.
    """
    runs = [read_run(base / run_id) for run_id in dict.fromkeys(ids)]
    for run in runs:
        if run.state == "running":
            remedy = f"orch stop {run.run_id} ends it, orch attach {run.run_id} follows it"
            raise UsageError(f"run {run.run_id} is being recorded by another orch process", remedy=remedy)
        if run.state == "left" and not force:
            raise UsageError(
                f"run {run.run_id} may still be going on: nobody followed it to its end",
                remedy=f"orch attach {run.run_id} does, or pass --force",
            )
    for run in runs:
        remove_run(base / run.run_id)
    forget_code(base)
    return runs


def surplus(base: Path, keep: int | None, before: float | None, tagged: bool) -> list[RecordedRun]:
    """Return the runs that ``orch runs prune`` removes, the oldest first.

    ``keep``: how many of the newest to keep. ``before``: only runs that began earlier, in seconds since the epoch.
    Runs that have not ended are kept, and those with tags unless ``tagged``.
    """
    runs = recorded_runs(base)
    old = runs[: max(0, len(runs) - keep)] if keep is not None else runs
    return [
        run
        for run in old
        if run.state not in ("running", "left")
        and (tagged or not run.tags)
        and (before is None or (run.began or 0.0) < before)
    ]


def forget_code(base: Path) -> None:
    """Remove the code that no recorded run has."""
    records = (read_record(base / run_id) for run_id in run_ids(base))
    CodeStore(base).forget({each.code.tree for each in records if each is not None and each.code is not None})
