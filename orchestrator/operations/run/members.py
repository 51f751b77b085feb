"""The nodes that have a part in a run, and what this machine has recorded of the run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.run.listing import NodeRun
from orchestrator.core.text.counted import counted
from orchestrator.errors import HostErrors, OrchError, UsageError
from orchestrator.local.run_folder import RunFolder
from orchestrator.operations.cluster import OpenCluster
from orchestrator.protocol.events import Attached, NodeLost, Planned
from orchestrator.protocol.run import ListRuns, RunsHere
from orchestrator.remote.fanout import on_all
from orchestrator.remote.node import Node
from orchestrator.remote.ssh.connection import Connection
from orchestrator.ui.display import Display

ANSWER_TIMEOUT = 30.0


@dataclass(frozen=True)
class Member:
    """A node and its part in a run."""

    node: Node
    run: NodeRun


def ask_runs(
    opened: OpenCluster, run_id: str | None, *, ended: bool
) -> tuple[list[tuple[Node, list[NodeRun]]], list[OrchError]]:
    """Ask every host for its runs. Return the runs of each node that answers, and the others' errors.

    ``run_id``: ask for this run only. ``ended``: also for ended runs.
    """

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


def find_members(opened: OpenCluster, run_id: str | None, display: Display) -> list[Member]:
    """Return the nodes of a run's newest attempt, in node_rank order. ``run_id`` None: of the only active run.

    All nodes must answer, of an elastic run at least MIN. Raises UsageError, HostErrors.
    """
    if opened.inventory.scheduler is not None:
        from orchestrator.operations.slurm.listing import job_members

        return job_members(opened, run_id, display)
    with display.stage(f"looking for the run on {counted(len(opened.hosts), 'host')}"):
        found, errors = ask_runs(opened, run_id, ended=run_id is not None)
    everywhere: dict[str, list[Member]] = {}
    for node, runs in found:
        for each in runs:
            everywhere.setdefault(each.run_id, []).append(Member(node, each))
    if not everywhere and errors:
        raise HostErrors(errors, len(opened.hosts))
    if not everywhere:
        what = f"no host knows a run {run_id}" if run_id else "nothing runs on these hosts"
        raise UsageError(what, remedy="list the runs: orch ps --all")
    if len(everywhere) > 1:
        raise UsageError(f"there are several runs: {', '.join(sorted(everywhere))}", remedy="name one of them")
    (members,) = everywhere.values()
    newest = max(each.run.attempt for each in members)
    members = sorted(
        (each for each in members if each.run.attempt == newest), key=lambda each: each.run.node_rank or 0
    )
    enough = members[0].run.min_nodes is not None and len(members) >= members[0].run.min_nodes
    if (absent := absent_nodes(members)) and not enough:
        if errors:
            raise HostErrors(errors, len(opened.hosts))
        raise UsageError(
            f"run {members[0].run.run_id} has nodes that this inventory does not reach: {', '.join(absent)}",
            remedy="use the inventory that the run was started with",
        )
    return members


def absent_nodes(members: Sequence[Member]) -> list[str]:
    """Return the nodes of a run that are not among its members."""
    there = {each.run.node for each in members}
    return [name for name in members[0].run.nodes if name not in there]


def record_attach(folder: RunFolder, members: Sequence[Member]) -> Mapping[str, Mapping[str, int]]:
    """Record that this process attaches to a run's attempt. Return the log offsets recorded so far, by node.

    Begin a record of the attempt if there is none, and record absent nodes as lost. Raises CannotRecord.
    """
    run = members[0].run
    begun = [event for event in folder.events if isinstance(event, Planned)]
    if not begun or begun[-1].attempt != run.attempt:
        folder.begin(list(run.nodes), run.attempt, run.min_nodes)
    for name in absent_nodes(members):
        if name not in folder.result().lost:
            reason = "the node does not answer orch attach"
            folder.record(NodeLost(time=time.time(), node=name, reason=reason))
    offsets = folder.offsets()
    folder.record(Attached(time=time.time(), nodes=tuple(each.run.node for each in members)))
    return offsets
