"""Have nodes change their SSH files, one after the other where they share a home folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from orchestrator.errors import OrchError
from orchestrator.protocol.keys import ArrangeKeys as Request
from orchestrator.protocol.keys import KeysArranged
from orchestrator.remote.fanout import on_all
from orchestrator.remote.node import Node

# Longer than making a key and waiting for another process's lock may take, in seconds.
LIMIT = 60.0
Answers = dict[str, KeysArranged]


def ask_all(
    nodes: Sequence[Node], request: Callable[[str], Request], fanout: int
) -> tuple[Answers, list[OrchError]]:
    """Send each node its request, by name, all at once. Return the answers and the errors of the other nodes."""
    outcomes = on_all(nodes, lambda node: _ask(node, request(node.name)), limit=fanout)
    answers = {
        node.name: outcome
        for node, outcome in zip(nodes, outcomes, strict=True)
        if not isinstance(outcome, OrchError)
    }
    return answers, [outcome for outcome in outcomes if isinstance(outcome, OrchError)]


def change_all(
    nodes: Sequence[Node], request: Callable[[str], Request], seen: Answers, fanout: int
) -> tuple[Answers, list[OrchError]]:
    """Send each node its request, which changes files.

    Nodes that share a home, as they answered before (``seen``), are asked in turn: two that change a file at once
    could overwrite each other's change, and the later ones find the change made.
    """
    homes: dict[str, list[Node]] = {}
    for node in nodes:
        homes.setdefault(seen[node.name].home, []).append(node)
    answers: Answers = {}
    errors: list[OrchError] = []

    def change(sharing: list[Node]) -> None:
        for node in sharing:
            try:
                answers[node.name] = _ask(node, request(node.name))
            except OrchError as error:
                errors.append(error)

    on_all(list(homes.values()), change, limit=fanout)
    return {node.name: answers[node.name] for node in nodes if node.name in answers}, errors


def _ask(node: Node, request: Request) -> KeysArranged:
    return node.ask(request, KeysArranged.from_wire, LIMIT)
