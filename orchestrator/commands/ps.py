"""``orch ps``: the runs on all hosts of an inventory."""

from __future__ import annotations

from orchestrator.core.inventory.target import Target
from orchestrator.core.run.listing import NodeRun, joined
from orchestrator.errors import HostErrors, OrchError
from orchestrator.operations.cluster import OpenCluster, open_cluster
from orchestrator.protocol.run import ListRuns, RunsHere
from orchestrator.remote.fanout import on_all
from orchestrator.remote.node import Node
from orchestrator.remote.ssh import Connection
from orchestrator.ui.display import Display
from orchestrator.ui.runs import show_runs

ANSWER_TIMEOUT = 30.0


def ps(target: Target, everything: bool, display: Display) -> int:
    """Show what runs and what is left over, with ``everything`` also what has ended; raises HostErrors last."""
    with open_cluster(target, spares_too=True) as opened:
        found, errors = ask_runs(opened, None, ended=everything)
    show_runs(display, joined(run for _, runs in found for run in runs), everything)
    if errors:
        raise HostErrors(errors, len(opened.hosts))
    return 0


def ask_runs(
    opened: OpenCluster, run_id: str | None, *, ended: bool
) -> tuple[list[tuple[Node, list[NodeRun]]], list[OrchError]]:
    """Connect to every host and ask for its runs: those of each node that answered, and why others did not."""

    def ask(link: Connection) -> tuple[Node, list[NodeRun]]:
        link.open()
        node = Node(link)
        if not ended and node.idle():
            return node, []
        request = ListRuns(run_id=run_id, ended=ended)
        answer = node.ask(request, RunsHere.from_wire, ANSWER_TIMEOUT, scale=4)
        return node, [NodeRun.from_answer(each, answer.time, node.name) for each in answer.runs]

    outcomes = on_all(opened.links, ask, limit=opened.fanout)
    found = [outcome for outcome in outcomes if not isinstance(outcome, OrchError)]
    return found, [outcome for outcome in outcomes if isinstance(outcome, OrchError)]
