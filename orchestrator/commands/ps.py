"""``orch ps``: the runs on all hosts of an inventory."""

from __future__ import annotations

from orchestrator.commands.session import Session, Target, session
from orchestrator.core.runs import NodeRun, joined
from orchestrator.display import Display
from orchestrator.errors import HostErrors, OrchError
from orchestrator.protocol.run import ListRuns, RunsHere
from orchestrator.remote.fanout import on_all
from orchestrator.remote.node import Node
from orchestrator.remote.ssh import Connection

ANSWER_TIMEOUT = 30.0


def ps(target: Target, everything: bool, display: Display) -> int:
    """Show what runs and what is left over, with ``everything`` also what has ended; raises HostErrors last."""
    with session(target, spares_too=True) as opened:
        found, errors = ask_runs(opened, None, ended=everything)
    display.runs(joined(run for _, runs in found for run in runs), everything)
    if errors:
        raise HostErrors(errors, len(opened.hosts))
    return 0


def ask_runs(
    opened: Session, run_id: str | None, *, ended: bool
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
