"""``orch logs``: what the ranks of a run printed, from the nodes, whoever started it."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.inventory.target import Target
from orchestrator.core.launch.plan import ranks_of
from orchestrator.core.run.machine import following
from orchestrator.core.run.policy import Policy
from orchestrator.core.run.result import nothing_yet
from orchestrator.engine.engine import Engine
from orchestrator.errors import HostErrors, UsageError
from orchestrator.operations.cluster import open_cluster
from orchestrator.operations.run.aftermath import NoErrands
from orchestrator.operations.run.members import find_members
from orchestrator.operations.run.recording import Printing
from orchestrator.operations.run.running import TAIL
from orchestrator.protocol.run import Follow
from orchestrator.remote.node_client import SshNodeClient
from orchestrator.ui.display import Display


@dataclass(frozen=True)
class Wanted:
    """Which lines: of which ranks (None: all), of which node, how old at most (seconds), and what is to come.

    What is followed begins with the last part of each log, unless ``from_start``.
    """

    ranks: tuple[int, ...] | None = None
    node: str | None = None
    since: float | None = None
    follow: bool = False
    from_start: bool = False


def logs(target: Target, run_id: str | None, wanted: Wanted, node_timeout: float, display: Display) -> int:
    """Print the lines, node by node as they come; the run is not touched. Raises HostErrors at the end."""
    with open_cluster(target, spares_too=True) as opened:
        members = find_members(opened, run_id, display)
        if wanted.node is not None and wanted.node not in {each.run.node for each in members}:
            names = ", ".join(each.run.node for each in members)
            raise UsageError(f"--node {wanted.node}: the run is on {names}")
        if wanted.ranks:
            known = {rank for each in members for rank in ranks_of(each.run.first_rank, each.run.nproc)}
            if known and (unknown := sorted(set(wanted.ranks) - known)):
                raise UsageError(f"--rank {unknown[0]}: the run has ranks 0 to {max(known)}")
        request = Follow(
            run_id=members[0].run.run_id,
            attempt=members[0].run.attempt,
            ranks=wanted.ranks,
            since=wanted.since,
            wait=wanted.follow,
            tail=TAIL if wanted.follow and wanted.since is None and not wanted.from_start else None,
        )
        nodes = [each.node for each in members if wanted.node in (None, each.run.node)]
        clients = {node.name: SshNodeClient(node, request, node_timeout) for node in nodes}
        policy = Policy(node_timeout=node_timeout, records=False, passive=True)
        first = following(policy, clients, members[0].run.attempt, nothing_yet())
        last = Engine(first, clients, NoErrands(), Printing(display)).run()
    if last.refusals:
        raise HostErrors(list(last.refusals), len(nodes))
    return 0
