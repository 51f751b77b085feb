"""Ask nodes what they are, and let them dial each other the way the ranks of a run do.

One call a node serves both: it answers with its facts, listens where it is told to, and dials whom it is told.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.checks.facts import Facts
from orchestrator.errors import OrchError
from orchestrator.protocol import facts, frames
from orchestrator.protocol.probe import Dial, DialTarget, Found, ListenFor, Listening, Probe, SshServer
from orchestrator.remote.connect.fanout import failures, on_all
from orchestrator.remote.node import Call, Node

# Every pair up to so many nodes; beyond it each dials its neighbour and the master, and they it.
ALL_PAIRS = 32
# Longer than any part of the facts, and any dial, may take, in seconds.
FACTS_TIMEOUT, PROBE_TIMEOUT, LOGIN_TIMEOUT = 60.0, 30.0, 60.0


@dataclass(frozen=True)
class FactsCall:
    """A node's facts, and the call that it waits on for orders."""

    facts: Facts
    call: Call


def ask(
    nodes: Sequence[Node], requests: Mapping[str, facts.AskFacts], limit: int
) -> tuple[dict[str, FactsCall], list[OrchError]]:
    """The answers of the nodes that give one, by name, and why others did not; ``hang_up`` when done."""

    def ask_one(node: Node) -> FactsCall:
        call = node.call(requests[node.name])
        try:
            its_clock = call.answer(facts.Clock.from_wire, FACTS_TIMEOUT).time
            # It is read once Python has started there: nearer to the end of the round trip than to its middle.
            offset = its_clock - (call.sent_at + 2 * time.time()) / 3
            value = call.answer(facts.NodeFacts.from_wire, FACTS_TIMEOUT)
        except OrchError:
            call.channel.close()
            raise
        noise = call.noise.decode("utf-8", "replace")
        return FactsCall(Facts.from_answer(node.name, value, offset, noise), call)

    outcomes = on_all(nodes, ask_one, limit=limit)
    answers = {outcome.facts.node: outcome for outcome in outcomes if isinstance(outcome, FactsCall)}
    return answers, failures(outcomes)


def hang_up(answers: Mapping[str, FactsCall]) -> None:
    """Let the nodes stop listening."""
    for answer in answers.values():
        answer.call.channel.close()


def partners(names: Sequence[str]) -> dict[str, dict[str, bool]]:
    """Whom each node dials, and whether it measures too: every other, in large clusters a ring and a star.

    The star, from and to the first, is for connections only: streams of all at once would measure the first.
    """
    if len(names) <= ALL_PAIRS:
        return {name: {other: True for other in names if other != name} for name in names}
    found: dict[str, dict[str, bool]] = {name: {} for name in names}
    for name in names[1:]:
        found[name][names[0]] = found[names[0]][name] = False
    for position, name in enumerate(names):
        found[name][names[(position + 1) % len(names)]] = True
    return found


def probe(
    answers: Mapping[str, FactsCall],
    addresses: Mapping[str, Sequence[str]],
    master_port: int | None,
    *,
    seconds: float | None = None,
    thorough: bool = True,
    ssh_ports: Mapping[str, int] | None = None,
) -> tuple[dict[str, dict[str, Probe]], dict[str, dict[str, str]]]:
    """What each node finds out about the others: ``{node: {other: result}}``; see ``protocol/probe.py``.

    ``addresses``: each node's, the one that a run would use first; a node without any takes no part.
    ``master_port`` is tried where a node listens at it. ``seconds``: how long streams are timed; None for a
    moment. Not ``thorough``: only whether connections can be made. A node that does not answer is left out.
    With ``ssh_ports`` they log in to each other, too; the second answer is how that ended.
    """
    asked = [name for name in answers if addresses.get(name)]
    if len(asked) < 2:
        return {}, {}

    def listen(name: str) -> Listening:
        call = answers[name].call
        master = master_port if name == next(iter(answers)) else None
        order = ListenFor(listen=tuple(addresses[name]), master_port=master)
        call.channel.write(frames.message_frame(order))
        return call.answer(Listening.from_wire, PROBE_TIMEOUT)

    heard = on_all(asked, listen, limit=len(asked))
    open_at = {name: each for name, each in zip(asked, heard, strict=True) if not isinstance(each, OrchError)}
    taking = list(open_at)
    whom = partners(taking)

    def target(other: str, streams: bool) -> DialTarget:
        ports = open_at[other]
        return DialTarget(
            node=other,
            streams=streams,
            addresses=tuple(addresses[other]),
            port=ports.port,
            udp_port=ports.udp_port,
            master_port=master_port if ports.master == "ok" else None,
            nonce=answers[other].call.nonce,
        )

    def door(other: str) -> SshServer:
        user = answers[other].facts.user
        return SshServer(node=other, address=addresses[other][0], port=(ssh_ports or {})[other], user=user)

    def dial(name: str) -> Found:
        call = answers[name].call
        orders = Dial(
            targets=tuple(target(other, streams) for other, streams in whom[name].items()),
            seconds=seconds,
            thorough=thorough,
            logins=tuple(door(other) for other in whom[name]) if ssh_ports else (),
        )
        call.channel.write(frames.message_frame(orders))
        limit = PROBE_TIMEOUT + 2 * (seconds or 0) + (LOGIN_TIMEOUT if ssh_ports else 0)
        return call.answer(Found.from_wire, limit)

    found = on_all(taking, dial, limit=len(taking))
    told = {name: each for name, each in zip(taking, found, strict=True) if not isinstance(each, OrchError)}
    # A node speaks of those alone that it was told to dial.
    return (
        {
            name: {other: each.results[other] for other in whom[name] if other in each.results}
            for name, each in told.items()
        },
        {
            name: {other: each.logins[other] for other in whom[name] if other in each.logins}
            for name, each in told.items()
        },
    )
