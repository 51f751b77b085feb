"""``orch attach``: take a run up again, from any machine that reaches its nodes, and see it to its end."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from orchestrator.commands.ps import ask_runs
from orchestrator.commands.run import concluded
from orchestrator.core.inventory.target import Target
from orchestrator.core.run.listing import NodeRun
from orchestrator.core.run.machine import following
from orchestrator.core.run.policy import Policy, grace_of
from orchestrator.engine.engine import Engine
from orchestrator.engine.signals import obeying_signals
from orchestrator.errors import HostErrors, UsageError
from orchestrator.local.run_folder import RunFolder
from orchestrator.operations.aftermath import Aftermath
from orchestrator.operations.cluster import OpenCluster, open_cluster
from orchestrator.operations.recording import Recording
from orchestrator.protocol.events import Attached, NodeLost, Planned
from orchestrator.protocol.run import Follow
from orchestrator.remote.listener import Listener
from orchestrator.remote.node import Node
from orchestrator.ui.display import Display

# How much of a log is shown that was printed before, in bytes.
TAIL = 64 * 1024


@dataclass(frozen=True)
class Member:
    """A node and its part in a run."""

    node: Node
    run: NodeRun


def attach(
    target: Target, run_id: str | None, runs_dir: Path, node_timeout: float, from_start: bool, display: Display
) -> int:
    """Follow a run, from what an earlier control process recorded in ``runs_dir`` on; its exit code.

    With None, the only run there is. Logs of which nothing is here yet begin with their last part, unless
    ``from_start``. A run that has ended is shown and collected all the same.
    """
    with open_cluster(target, spares_too=True) as opened:
        members = find_members(opened, run_id, display)
        first = members[0].run
        with closing(RunFolder.open(runs_dir, first.run_id)) as folder:
            offsets = taken_up(folder, members)
            grace = grace_of(opened.inventory.grace)
            if not folder.writing:
                display.note(f"another orch records this run in {folder.path}; this one only shows it")
            policy = Policy(node_timeout=node_timeout, grace=grace, records=folder.writing)
            request = Follow(run_id=first.run_id, attempt=first.attempt, tail=None if from_start else TAIL)
            clients = {
                each.node.name: Listener(
                    each.node, request.replace(offsets=dict(offsets.get(each.node.name, {}))), node_timeout
                )
                for each in members
            }
            nodes = {each.node.name: each.node for each in members}
            errands = Aftermath(nodes, opened.inventory.outputs, folder, display)
            recording = Recording(folder, first.workload, display)
            recording.begun(first.attempt, tuple(clients))
            recording.shown.recall(folder.events)
            engine = Engine(
                following(policy, clients, first.attempt, folder.result()), clients, errands, recording
            )
            with obeying_signals(engine, grace):
                last = engine.run()
            return concluded(last, folder, len(members), display)


def find_members(opened: OpenCluster, run_id: str | None, display: Display) -> list[Member]:
    """The nodes of a run's newest attempt, in node_rank order, of an elastic run as many as answer.

    Raises UsageError, HostErrors.
    """
    with display.stage(f"looking on {len(opened.hosts)} hosts"):
        found, errors = ask_runs(opened, run_id, ended=run_id is not None)
    everywhere: dict[str, list[Member]] = {}
    for node, runs in found:
        for each in runs:
            everywhere.setdefault(each.run_id, []).append(Member(node, each))
    if not everywhere and errors:
        raise HostErrors(errors, len(opened.hosts))
    if not everywhere:
        what = f"no host knows a run {run_id}" if run_id else "nothing runs on these hosts"
        raise UsageError(what, remedy="orch ps --all lists the runs there are")
    if len(everywhere) > 1:
        raise UsageError(f"several runs: {', '.join(sorted(everywhere))}", remedy="name the one that is meant")
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
            remedy="use the inventory it was started with",
        )
    return members


def absent_nodes(members: Sequence[Member]) -> list[str]:
    """The nodes of a run that are not among its members."""
    there = {each.run.node for each in members}
    return [name for name in members[0].run.nodes if name not in there]


def taken_up(folder: RunFolder, members: Sequence[Member]) -> Mapping[str, Mapping[str, int]]:
    """What is here already of a run's attempt; begins a record of it where there is none."""
    run = members[0].run
    begun = [event for event in folder.events if isinstance(event, Planned)]
    if not begun or begun[-1].attempt != run.attempt:
        folder.begin(list(run.nodes), run.attempt, run.min_nodes)
    for name in absent_nodes(members):
        if name not in folder.result().lost:
            reason = "it does not answer orch attach"
            folder.record(NodeLost(time=time.time(), node=name, reason=reason))
    offsets = folder.offsets()
    folder.record(Attached(time=time.time(), nodes=tuple(each.run.node for each in members)))
    return offsets
