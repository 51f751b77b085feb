"""``orch logs``: what the ranks of a run printed, from the nodes, whoever started it."""

from __future__ import annotations

from orchestrator.core.inventory.target import Target
from orchestrator.operations.cluster import open_cluster
from orchestrator.operations.run.members import find_members
from orchestrator.operations.run.reading import LogSelection, print_logs
from orchestrator.ui.display import Display


def logs(
    target: Target, run_id: str | None, selection: LogSelection, node_timeout: float, display: Display
) -> int:
    """Print the selected lines of a run, or of the only one there is; returns 0.

    Raises UsageError for a selection that does not fit the run, HostErrors for nodes that were lost.
    """
    with open_cluster(target, spares_too=True) as opened:
        members = find_members(opened, run_id, display)
        selection.check(members)
        print_logs(members, selection, node_timeout, display)
    return 0
