"""``orch logs``: what the ranks of a run printed, from the nodes, whoever started it."""

from __future__ import annotations

import queue
import threading
from dataclasses import dataclass

from orchestrator.commands.attach import TAIL, find_members
from orchestrator.commands.session import Target, session
from orchestrator.core.plan import ranks_of
from orchestrator.display import Display
from orchestrator.errors import HostErrors, OrchError, UsageError
from orchestrator.protocol.run import Follow
from orchestrator.remote.follower import Closed, Follower, Item, Output
from orchestrator.remote.node import Node

ROOM = 64


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
    with session(target, spares_too=True) as opened:
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
        errors = _print(nodes, request, node_timeout, display)
    if errors:
        raise HostErrors(errors, len(nodes))
    return 0


def _print(nodes: list[Node], request: Follow, node_timeout: float, display: Display) -> list[OrchError]:
    items: queue.Queue[Item | OrchError] = queue.Queue(ROOM)

    def follow(node: Node) -> None:
        follower = Follower(
            node,
            request,
            items.put,
            timeout=node_timeout,
            company=lambda: True,
            stopping=lambda: None,
            passive=True,
        )
        try:
            follower.follow(node.call(request))
        except OrchError as error:
            items.put(error)
            items.put(Closed(node.name))

    for node in nodes:
        threading.Thread(target=follow, args=(node,), daemon=True).start()
    speaking = len(nodes)
    errors = []
    with display.lines():
        while speaking:
            item = items.get()
            if isinstance(item, Closed):
                speaking -= 1
            elif isinstance(item, OrchError):
                errors.append(item)
            elif isinstance(item, Output):
                display.output(item)
    return errors
