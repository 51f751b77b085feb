"""``orch stop``: end a run on every host it is on."""

from __future__ import annotations

from orchestrator.commands.session import Target, session
from orchestrator.display import Display
from orchestrator.errors import HostErrors, OrchError, PreflightError
from orchestrator.remote.fanout import failures, on_all
from orchestrator.remote.node import Node


def stop(target: Target, run_id: str | None, grace: float, display: Display) -> int:
    """Stop ``run_id``, or with None whatever runs; returns 0 when nothing of it is left, raises HostErrors."""

    with session(target) as opened:
        nodes = opened.connect()

        def ask(node: Node) -> bool:
            answer = node.ask("stop", {"run_id": run_id, "grace": grace})["stopped"]
            if answer and "denied" in answer:
                raise PreflightError(
                    f"run {answer['run_id']} belongs to {answer['denied']}",
                    remedy="ask its owner, or stop it as root",
                    host=node.name,
                )
            if answer and "error" in answer:
                raise PreflightError(answer["error"], host=node.name)
            return bool(answer and answer.get("gone"))

        outcomes = on_all(nodes, ask, limit=opened.fanout)
    ended = [node.name for node, outcome in zip(nodes, outcomes, strict=True) if outcome is True]
    display.write(f"stopped on {', '.join(ended)}\n" if ended else "nothing to stop\n")
    if errors := failures([outcome for outcome in outcomes if isinstance(outcome, OrchError)]):
        raise HostErrors(errors, len(nodes))
    return 0
