"""Let nodes dial each other the way the ranks of a run do: the conversation that follows ``Facts``.

``ListenFor`` is answered by ``Listening``, ``Dial`` by ``Found``. Then the node stays until the control side hangs
up, for others may dial it.
"""

from __future__ import annotations

from .message import Message, of
from .shapes import flag, many, maybe, number, row, table, text
from .terms import ADDRESS, BYTES, NAME, NONCE, PORT, SECONDS


class ListenFor(Message):
    """Listen at these addresses and nowhere else, and at the master port, too, if one is given."""

    listen: tuple[str, ...] = of(many(ADDRESS))
    master_port: int | None = of(maybe(PORT))


class Listening(Message):
    """Where this node listens; ``master`` is ``ok``, why not, or None."""

    port: int = of(PORT)
    udp_port: int = of(PORT)
    master: str | None = of(maybe(text(256)))


class DialTarget(Message):
    """A node to dial: it greets with ``nonce``. ``streams``: measure throughput, too."""

    node: str = of(NAME)
    addresses: tuple[str, ...] = of(many(ADDRESS))
    port: int = of(PORT)
    udp_port: int = of(PORT)
    master_port: int | None = of(maybe(PORT))
    nonce: str = of(NONCE)
    streams: bool = of(flag)


class SshServer(Message):
    """A node to log in to."""

    node: str = of(NAME)
    address: str = of(ADDRESS)
    port: int = of(PORT)
    user: str = of(text(256))


class Dial(Message):
    """Dial these. ``seconds``: how long a stream is timed, None for a moment; not ``thorough``: only connect."""

    targets: tuple[DialTarget, ...] = of(many(DialTarget.from_wire, 10_000))
    seconds: float | None = of(maybe(SECONDS))
    thorough: bool = of(flag)
    logins: tuple[SshServer, ...] = of(many(SshServer.from_wire, 10_000))


class Probe(Message):
    """What one node found out about another.

    ``tcp``: for each address ``ok``, ``refused``, ``timeout``, ``unreachable`` or ``other``; the first address
    last. ``rtt`` in seconds, ``loss`` 0 to 1, ``bulk``: bytes that came back and seconds, ``master``: as ``tcp``.
    """

    tcp: dict[str, str] = of(table(text(256), 256), default={})
    rtt: float | None = of(maybe(number(0, 1e6)), default=None)
    loss: float | None = of(maybe(number(0, 1)), default=None)
    bulk: tuple[int, float] | None = of(maybe(row(BYTES, number(0, 1e6))), default=None)
    master: str | None = of(maybe(text(256)), default=None)


class Found(Message):
    """What was found out about each node that was dialled, and how each login ended."""

    results: dict[str, Probe] = of(table(Probe.from_wire, 10_000))
    logins: dict[str, str] = of(table(text(), 10_000))
