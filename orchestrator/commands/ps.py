"""``orch ps``: list the runs on all hosts of an inventory."""

from __future__ import annotations

from orchestrator.core.inventory.target import Target
from orchestrator.core.run.listing import whole_runs
from orchestrator.errors import HostErrors
from orchestrator.operations.cluster import open_cluster
from orchestrator.operations.run.members import ask_runs
from orchestrator.operations.slurm.listing import listed_jobs
from orchestrator.ui.display import Display
from orchestrator.ui.runs import show_runs


def ps(target: Target, everything: bool, display: Display) -> int:
    """Show active runs and leftovers, with ``everything`` also ended runs, and return 0.

    Raises HostErrors, after the list is shown, if hosts gave no answer.
    """
    with open_cluster(target, spares_too=True) as opened:
        if opened.inventory.scheduler is not None:
            show_runs(display, listed_jobs(opened, ended=everything), everything)
            return 0
        found, errors = ask_runs(opened, None, ended=everything)
    show_runs(display, whole_runs(run for _, runs in found for run in runs), everything)
    if errors:
        raise HostErrors(errors, len(opened.hosts))
    return 0
