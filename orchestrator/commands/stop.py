"""``orch stop``: end a run on every host it is on, and what is left over of it."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.inventory.target import Target
from orchestrator.core.run.policy import grace_of
from orchestrator.errors import HostErrors, OrchError, PreflightError
from orchestrator.operations.cluster import open_cluster
from orchestrator.remote.connect.fanout import failures, on_all
from orchestrator.remote.connect.ssh import Connection
from orchestrator.remote.node import Node
from orchestrator.ui.display import Display


@dataclass(frozen=True)
class Ended:
    """What a host had to end: runs by id, and how many processes without a supervisor were among them.

    ``alive`` are those that could not be ended, in words; ``held_by`` is whose lock it is, if another user's.
    """

    host: str
    runs: tuple[str, ...]
    leftovers: int
    alive: tuple[str, ...] = ()
    held_by: str | None = None


def stop(target: Target, run_id: str | None, asked: float | None, display: Display) -> int:
    """Stop ``run_id``, or with None whatever runs; returns 0 when nothing of it is left.

    ``asked``: how many seconds the ranks may take; None as the inventory says. A host that cannot be asked keeps
    the others from nothing; raises HostErrors at the end.
    """

    def ask(link: Connection) -> Ended:
        link.open()
        node = Node(link)
        if node.idle():
            return Ended(node.name, (), 0)
        answer = node.stop(run_id, grace)
        refused = answer.refused
        if refused is not None and not refused.foreign:
            raise PreflightError(refused.error or "does not answer", host=node.name)
        held_by = refused.owner if refused is not None else None
        return Ended(node.name, answer.ended, answer.killed, answer.alive, held_by)

    with open_cluster(target, spares_too=True) as opened:
        grace = grace_of(opened.inventory.grace, asked).stop
        with display.stage(f"stopping, {grace:g} s at most for ranks to end"):
            outcomes = on_all(opened.links, ask, limit=opened.fanout)
    ended: dict[str, list[str]] = {}
    refusals: list[OrchError] = []
    for outcome in outcomes:
        if isinstance(outcome, Ended):
            for each in outcome.runs:
                ended.setdefault(each, []).append(outcome.host)
            if outcome.leftovers:
                display.note(f"{outcome.host}: ended {outcome.leftovers} processes that no supervisor watched")
            refusals += _refusals(outcome, run_id, display)
    for each, hosts in ended.items():
        display.write(f"stopped {each} on {', '.join(hosts)}\n")
    if errors := [*failures(outcomes), *refusals]:
        raise HostErrors(errors, len(opened.links))
    if not ended:
        display.write("nothing to stop\n")
    return 0


def _refusals(outcome: Ended, run_id: str | None, display: Display) -> list[OrchError]:
    """What a host could not end."""
    found: list[OrchError] = []
    if outcome.alive:
        what = f"could not end {', '.join(outcome.alive)}"
        found.append(PreflightError(what, remedy="end it as that user, or as root, there", host=outcome.host))
    if outcome.held_by and run_id is None:
        what = f"the lock is held by {outcome.held_by}"
        found.append(PreflightError(what, remedy="only that user, or root there, can end it", host=outcome.host))
    elif outcome.held_by:
        display.note(f"{outcome.host}: the lock is held by {outcome.held_by}; no run of yours is there")
    return found
