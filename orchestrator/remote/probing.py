"""Let nodes dial each other the way the ranks of a run do: every node listens, then all dial at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.errors import OrchError
from orchestrator.node import wire
from orchestrator.remote.fanout import on_all
from orchestrator.remote.node import Call, Node

# Every pair up to so many nodes; beyond it each dials its neighbour and the master, and they it.
ALL_PAIRS = 32
ANSWER_TIMEOUT = 30.0


def partners(names: Sequence[str]) -> dict[str, list[str]]:
    """Whom each node dials: every other, or in large clusters a ring and a star around the first."""
    if len(names) <= ALL_PAIRS:
        return {name: [other for other in names if other != name] for name in names}
    found: dict[str, dict[str, None]] = {name: {} for name in names}
    for position, name in enumerate(names):
        found[name][names[(position + 1) % len(names)]] = None
        if name != names[0]:
            found[name][names[0]] = None
            found[names[0]][name] = None
    return {name: list(others) for name, others in found.items()}


def probe(
    nodes: Sequence[Node],
    addresses: Mapping[str, Sequence[str]],
    master_port: int | None,
    *,
    seconds: float | None = None,
    thorough: bool = True,
) -> dict[str, dict[str, Any]]:
    """What each node found out about the others: ``{node: {other: result}}``; see ``node/probe.py``.

    ``addresses``: each node's, the one that a run would use first; a node without any takes no part.
    ``master_port`` is tried on the first node. ``seconds``: how long streams are timed; None for a moment.
    Not ``thorough``: only whether connections can be made. A node that does not answer is left out.
    """
    taking = [node for node in nodes if addresses.get(node.name)]
    if len(taking) < 2:
        return {}

    def listen(node: Node) -> tuple[Call, dict[str, Any]]:
        call = node.call("probe", {"master_port": master_port if node is nodes[0] else None})
        return call, call.answer(ANSWER_TIMEOUT)

    outcomes = on_all(taking, listen, limit=len(taking))
    listening = {
        node.name: outcome
        for node, outcome in zip(taking, outcomes, strict=True)
        if not isinstance(outcome, OrchError)
    }
    whom = partners(list(listening))

    def dial(name: str) -> dict[str, Any]:
        call, _ = listening[name]
        targets = [
            {
                "node": other,
                "addresses": list(addresses[other]),
                "port": listening[other][1]["port"],
                "udp_port": listening[other][1]["udp_port"],
                "master_port": master_port if listening[other][1]["master"] == "ok" else None,
                "nonce": listening[other][0].nonce,
            }
            for other in whom[name]
        ]
        call.channel.write(wire.json_frame({"targets": targets, "seconds": seconds, "thorough": thorough}))
        results: dict[str, Any] = call.answer(ANSWER_TIMEOUT + 2 * (seconds or 0))["results"]
        return results

    try:
        found = on_all(list(listening), dial, limit=len(listening))
    finally:
        for call, _ in listening.values():
            call.channel.close()
    return {
        name: result for name, result in zip(listening, found, strict=True) if not isinstance(result, OrchError)
    }
