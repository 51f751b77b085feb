"""Let nodes dial each other the way the ranks of a run do: the conversation that follows ``NodeFacts``.

The control side sends ``ListenFor``, answered by ``Listening``, then ``Dial``, answered by ``Found``. The node
keeps listening until the control side closes the connection, because other nodes may still dial it.
"""

from __future__ import annotations

from .message import Message, of
from .shapes import flag, many, maybe, number, row, table, text
from .terms import ADDRESS, BYTES, NAME, NONCE, PORT, SECONDS


class ListenFor(Message):
    """Sent by the control side: listen at these addresses only; answered by ``Listening``.

    ``listen``: numeric addresses. For one that is not the node's own, because it is translated on the way, the
    node uses the address that SSH came in on.
    ``master_port``: port to listen on as well; None if this node is not the master.
    """

    listen: tuple[str, ...] = of(many(ADDRESS))
    master_port: int | None = of(maybe(PORT))


class Listening(Message):
    """The answer to ``ListenFor``.

    ``port`` and ``udp_port``: ports at which the node echoes TCP streams and UDP datagrams.
    ``master``: ``ok`` if the node also listens on the master port, or why not; None if no port was given.
    """

    port: int = of(PORT)
    udp_port: int = of(PORT)
    master: str | None = of(maybe(text(256)))


class DialTarget(Message):
    """A node to dial.

    ``node``: its name. ``addresses``: its addresses, the one that a run would use first.
    ``port`` and ``udp_port``: as in ``Listening``.
    ``master_port``: the master port; None if the node does not listen there.
    ``nonce``: greeting by which the node is recognised, because an address may lead to another machine.
    ``streams``: whether to measure datagram loss and throughput, too.
    """

    node: str = of(NAME)
    addresses: tuple[str, ...] = of(many(ADDRESS))
    port: int = of(PORT)
    udp_port: int = of(PORT)
    master_port: int | None = of(maybe(PORT))
    nonce: str = of(NONCE)
    streams: bool = of(flag)


class SshServer(Message):
    """A node to log in to with ssh, without a password.

    ``node``: its name. ``address``, ``port`` and ``user``: of its SSH server.
    """

    node: str = of(NAME)
    address: str = of(ADDRESS)
    port: int = of(PORT)
    user: str = of(text(256))


class Dial(Message):
    """Sent by the control side: dial these nodes; answered by ``Found``.

    ``targets``: the nodes to dial.
    ``seconds``: how long to send each stream; None sends a fixed amount of data.
    ``thorough``: whether to measure; if not, nodes only connect.
    ``logins``: the SSH servers to log in to.
    """

    targets: tuple[DialTarget, ...] = of(many(DialTarget.from_wire, 10_000))
    seconds: float | None = of(maybe(SECONDS))
    thorough: bool = of(flag)
    logins: tuple[SshServer, ...] = of(many(SshServer.from_wire, 10_000))


class Probe(Message):
    """What one node found out about another.

    ``tcp``: result for each address, the first address last: ``ok``, ``refused``, ``timeout``, ``unreachable``,
    ``other`` if another machine answered, or the operating system's error.
    ``rtt``: shortest round trip, in seconds; None if not measured.
    ``loss``: share of datagrams that did not come back, 0 to 1; None if not measured.
    ``bulk``: bytes that came back and how many seconds that took; None if not measured.
    ``master``: result for the master port, as in ``tcp``; None if it was not dialled.
    """

    tcp: dict[str, str] = of(table(text(256), 256), default={})
    rtt: float | None = of(maybe(number(0, 1e6)), default=None)
    loss: float | None = of(maybe(number(0, 1)), default=None)
    bulk: tuple[int, float] | None = of(maybe(row(BYTES, number(0, 1e6))), default=None)
    master: str | None = of(maybe(text(256)), default=None)


class Found(Message):
    """The answer to ``Dial``.

    ``results``: by node. ``logins``: by node, ``ok`` or the last line that ssh printed.
    """

    results: dict[str, Probe] = of(table(Probe.from_wire, 10_000))
    logins: dict[str, str] = of(table(text(), 10_000))
