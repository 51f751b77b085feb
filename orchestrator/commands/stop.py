"""``orch stop``: end a run on every host it is on, and what is left over of it."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.commands.session import Target, session
from orchestrator.display import Display
from orchestrator.errors import HostErrors, OrchError, PreflightError
from orchestrator.remote.fanout import failures, on_all
from orchestrator.remote.node import Node
from orchestrator.remote.ssh import Connection


@dataclass(frozen=True)
class Ended:
    """What a host had to end: runs by id, and how many processes without a supervisor were among them."""

    host: str
    runs: tuple[str, ...]
    leftovers: int


def stop(target: Target, run_id: str | None, grace: float, display: Display) -> int:
    """Stop ``run_id``, or with None whatever runs; returns 0 when nothing of it is left.

    A host that cannot be asked keeps the others from nothing; raises HostErrors at the end.
    """

    def ask(link: Connection) -> Ended:
        link.open()
        node = Node(link)
        if node.idle():
            return Ended(node.name, (), 0)
        answer = node.stop(run_id, grace)
        refused = answer["refused"]
        if refused and "denied" in refused:
            raise PreflightError(
                f"run {refused['run_id']} belongs to {refused['denied']}",
                remedy="ask its owner, or stop it as root",
                host=node.name,
            )
        if refused:
            raise PreflightError(refused["error"], host=node.name)
        return Ended(node.name, tuple(answer["ended"]), answer["killed"])

    with session(target, spares_too=True) as opened:
        outcomes = on_all(opened.links, ask, limit=opened.fanout)
    ended: dict[str, list[str]] = {}
    for outcome in outcomes:
        if isinstance(outcome, Ended):
            for each in outcome.runs:
                ended.setdefault(each, []).append(outcome.host)
            if outcome.leftovers:
                display.note(f"{outcome.host}: ended {outcome.leftovers} processes that no supervisor watched")
    for each, hosts in ended.items():
        display.write(f"stopped {each} on {', '.join(hosts)}\n")
    if not ended:
        display.write("nothing to stop\n")
    if errors := failures([outcome for outcome in outcomes if isinstance(outcome, OrchError)]):
        raise HostErrors(errors, len(opened.links))
    return 0
