"""Reads the output of a run's ranks from the nodes, whichever machine started the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.launch.plan import ranks_of
from orchestrator.core.run.machine import following
from orchestrator.core.run.policy import Policy
from orchestrator.core.run.result import nothing_yet
from orchestrator.engine.engine import Engine
from orchestrator.errors import HostErrors, UsageError
from orchestrator.operations.run.aftermath import NoErrands
from orchestrator.operations.run.members import Member
from orchestrator.operations.run.recording import Printing
from orchestrator.operations.run.running import TAIL
from orchestrator.protocol.run import Follow
from orchestrator.remote.node_client import SshNodeClient
from orchestrator.ui.display import Display


@dataclass(frozen=True)
class LogSelection:
    """The lines to read: of ``ranks`` (None: all), of ``node`` (None: all), at most ``since`` seconds old.

    ``follow``: go on with new output. It starts with the last ``TAIL`` bytes of each log, unless ``from_start`` or
    ``since`` is given.
    """

    ranks: tuple[int, ...] | None = None
    node: str | None = None
    since: float | None = None
    follow: bool = False
    from_start: bool = False

    def check(self, members: Sequence[Member]) -> None:
        """Raise UsageError for a node or a rank that the run does not have."""
        if self.node is not None and self.node not in {each.run.node for each in members}:
            names = ", ".join(each.run.node for each in members)
            raise UsageError(f"--node {self.node}: the run is on {names}")
        known = {rank for each in members for rank in ranks_of(each.run.first_rank, each.run.nproc)}
        if known and (unknown := sorted(set(self.ranks or ()) - known)):
            raise UsageError(f"--rank {unknown[0]}: the run has ranks 0 to {max(known)}")


def print_logs(members: Sequence[Member], selection: LogSelection, node_timeout: float, display: Display) -> None:
    """Print the selected lines of all nodes in the order they arrive. The run is not changed.

    Raises HostErrors, after all nodes have finished, for lost nodes.
    """
    first = members[0].run
    request = Follow(
        run_id=first.run_id,
        attempt=first.attempt,
        ranks=selection.ranks,
        since=selection.since,
        wait=selection.follow,
        tail=TAIL if selection.follow and selection.since is None and not selection.from_start else None,
    )
    nodes = [each.node for each in members if selection.node in (None, each.run.node)]
    clients = {node.name: SshNodeClient(node, request, node_timeout) for node in nodes}
    policy = Policy(node_timeout=node_timeout, records=False, passive=True)
    begun = following(policy, clients, first.attempt, nothing_yet())
    last = Engine(begun, clients, NoErrands(), Printing(display)).run()
    if last.refusals:
        raise HostErrors(list(last.refusals), len(nodes))
