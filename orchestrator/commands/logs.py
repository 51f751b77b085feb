"""``orch logs``: print the output of a run's ranks, read from the nodes."""

from __future__ import annotations

from orchestrator.core.inventory.target import Target
from orchestrator.operations.cluster import open_cluster
from orchestrator.operations.run.members import find_members
from orchestrator.operations.run.reading import LogSelection, print_logs
from orchestrator.ui.display import Display


def logs(
    target: Target, run_id: str | None, selection: LogSelection, node_timeout: float, display: Display
) -> int:
    """Print the selected lines of a run, with ``run_id`` None of the only active run. Return 0.

    Raises UsageError if the selection does not fit the run, HostErrors for lost nodes.
    """
    with open_cluster(target, spares_too=True) as opened:
        members = find_members(opened, run_id, display)
        selection.check(members)
        print_logs(members, selection, node_timeout, display)
    return 0
