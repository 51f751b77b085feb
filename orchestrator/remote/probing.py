"""Gather the facts of nodes, and let the nodes dial each other as the ranks of a run do.

One call per node serves both: the node answers with its facts, then listens and dials as ordered.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from orchestrator.core.checks.facts import Facts
from orchestrator.errors import OrchError
from orchestrator.protocol import facts, frames
from orchestrator.protocol.probe import Dial, DialTarget, Found, ListenFor, Listening, Probe, SshServer
from orchestrator.remote.fanout import failures, on_all
from orchestrator.remote.node import Call, Node

# Most nodes among which every pair is dialled; with more, a ring of all nodes and a star around the master is.
ALL_PAIRS = 32
# Longer than any part of the facts, any dial and any login may take, in seconds.
FACTS_TIMEOUT, PROBE_TIMEOUT, LOGIN_TIMEOUT = 60.0, 30.0, 60.0


Answer = TypeVar("Answer")


@dataclass(frozen=True)
class FactsCall:
    """A node's facts, and the call on which the node waits for orders."""

    facts: Facts
    call: Call


def ask_facts(
    nodes: Sequence[Node], requests: Mapping[str, facts.AskFacts], limit: int
) -> tuple[dict[str, FactsCall], list[OrchError]]:
    """Return the answers by node, and the errors of the other nodes. Call ``hang_up`` when done."""

    def ask_one(node: Node) -> FactsCall:
        call = node.call(requests[node.name])
        try:
            its_clock = call.answer(facts.Clock.from_wire, FACTS_TIMEOUT).time
            # The node reads its clock once Python runs: nearer to the end of the round trip than to its middle.
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
    """Close the calls, so that the nodes stop listening."""
    for answer in answers.values():
        answer.call.channel.close()


def partners(names: Sequence[str]) -> dict[str, dict[str, bool]]:
    """Return whom each node dials, and whether it also measures: all others; in large clusters a ring and a star.

    The star around the first node is for connections only: streams from all nodes would measure the first node.
    """
    if len(names) <= ALL_PAIRS:
        return {name: {other: True for other in names if other != name} for name in names}
    found: dict[str, dict[str, bool]] = {name: {} for name in names}
    for name in names[1:]:
        found[name][names[0]] = found[names[0]][name] = False
    for position, name in enumerate(names):
        found[name][names[(position + 1) % len(names)]] = True
    return found


@dataclass(frozen=True)
class Mesh:
    """Nodes that wait for orders, and how they are to dial each other.

    ``addresses``: each node's addresses, the one that a run would use first; a node without any takes no part.
    ``master_port`` is tried if the first node listens at it. ``seconds``: how long streams are timed; None for a
    moment. Unless ``thorough``, nodes only try to connect. With ``ssh_ports`` they also log in to each other by
    SSH.
    """

    calls: Mapping[str, FactsCall]
    addresses: Mapping[str, Sequence[str]]
    master_port: int | None
    seconds: float | None = None
    thorough: bool = True
    ssh_ports: Mapping[str, int] | None = None

    def probe(self) -> tuple[dict[str, dict[str, Probe]], dict[str, dict[str, str]]]:
        """Let the nodes dial each other; return ``{node: {other: result}}`` of connections and of SSH logins.

        Left out are nodes that do not answer, and results for nodes that a node was not told to dial.
        """
        asked = [name for name in self.calls if self.addresses.get(name)]
        if len(asked) < 2:
            return {}, {}
        listening = _answered(asked, on_all(asked, self._listen, limit=len(asked)))
        whom = partners(list(listening))

        def dial(name: str) -> Found:
            return self._dial(name, whom[name], listening)

        found = _answered(list(listening), on_all(list(listening), dial, limit=len(listening)))
        results = {name: _of(each.results, whom[name]) for name, each in found.items()}
        return results, {name: _of(each.logins, whom[name]) for name, each in found.items()}

    def _listen(self, name: str) -> Listening:
        call = self.calls[name].call
        master = self.master_port if name == next(iter(self.calls)) else None
        order = ListenFor(listen=tuple(self.addresses[name]), master_port=master)
        call.channel.write(frames.message_frame(order))
        return call.answer(Listening.from_wire, PROBE_TIMEOUT)

    def _dial(self, name: str, whom: Mapping[str, bool], listening: Mapping[str, Listening]) -> Found:
        call = self.calls[name].call
        order = Dial(
            targets=tuple(self._target(other, streams, listening[other]) for other, streams in whom.items()),
            seconds=self.seconds,
            thorough=self.thorough,
            logins=tuple(self._ssh_server(other, self.ssh_ports[other]) for other in whom)
            if self.ssh_ports
            else (),
        )
        call.channel.write(frames.message_frame(order))
        limit = PROBE_TIMEOUT + 2 * (self.seconds or 0) + (LOGIN_TIMEOUT if self.ssh_ports else 0)
        return call.answer(Found.from_wire, limit)

    def _target(self, name: str, streams: bool, ports: Listening) -> DialTarget:
        return DialTarget(
            node=name,
            streams=streams,
            addresses=tuple(self.addresses[name]),
            port=ports.port,
            udp_port=ports.udp_port,
            master_port=self.master_port if ports.master == "ok" else None,
            nonce=self.calls[name].call.nonce,
        )

    def _ssh_server(self, name: str, port: int) -> SshServer:
        user = self.calls[name].facts.user
        return SshServer(node=name, address=self.addresses[name][0], port=port, user=user)


def _answered(names: Sequence[str], outcomes: Sequence[Answer | OrchError]) -> dict[str, Answer]:
    """Return the answers by node, without the nodes that failed."""
    return {name: each for name, each in zip(names, outcomes, strict=True) if not isinstance(each, OrchError)}


def _of(results: Mapping[str, Answer], names: Collection[str]) -> dict[str, Answer]:
    return {name: results[name] for name in names if name in results}
