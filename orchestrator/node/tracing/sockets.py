"""How fast TCP connections to other hosts are, as the kernel counts it for each of them (sock_diag(7))."""

from __future__ import annotations

import os
import socket
import struct

from ...protocol.run import LinkPace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# Numbers of linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h and, for the state, net/tcp_states.h.
NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY = 4, 20
NLMSG_ERROR, NLMSG_DONE, REQUEST_DUMP = 2, 3, 0x301
INET_DIAG_INFO, ESTABLISHED = 2, 1
HEADER, REQUEST, ATTRIBUTE = struct.Struct("=IHHII"), struct.Struct("=BBBxI48x"), struct.Struct("=HH")
# Offsets in struct inet_diag_msg: source, destination, owner, attributes.
SOURCE, DESTINATION, UID, ATTRIBUTES = 8, 24, 64, 72
# Offsets in struct tcp_info: bytes that arrived; microseconds in which data was under way, and, of those, in which
# the receiver took none.
ACKED, BUSY = struct.Struct("=120xQ"), struct.Struct("=168xQQ")
# Longest wait for an answer of the kernel, in seconds.
LIMIT = 1.0


def links() -> list[LinkPace]:
    """Return what this user's connections to other hosts have sent; none if the kernel does not tell."""
    found: dict[tuple[str, str], tuple[float, int]] = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            for local, remote, busy, sent in connections(family):
                longest, total = found.get((local, remote), (0.0, 0))
                found[local, remote] = max(longest, busy), total + sent
        except (OSError, struct.error):
            continue
    return [LinkPace(local=a, remote=b, busy=busy, sent=sent) for (a, b), (busy, sent) in found.items()]


def connections(family: int) -> Iterator[tuple[str, str, float, int]]:
    """Yield (local address, remote address, seconds in which data was under way, bytes that arrived).

    Raises OSError, struct.error.
    """
    own, length = os.getuid(), 4 if family == socket.AF_INET else 16
    for message in answers(family):
        if struct.unpack_from("=I", message, UID)[0] != own:
            continue
        local, remote = (
            plain(socket.inet_ntop(family, message[at : at + length])) for at in (SOURCE, DESTINATION)
        )
        info = attribute(message, INET_DIAG_INFO)
        # Kernels before 4.10 tell less.
        if local == remote or local.startswith("127.") or len(info) < BUSY.size:
            continue
        busy, held = BUSY.unpack_from(info)
        yield local, remote, max(0, busy - held) / 1e6, ACKED.unpack_from(info)[0]


def plain(address: str) -> str:
    """Return an IPv4 address as such where it is written as one of IPv6."""
    return address[7:] if address.startswith("::ffff:") else address


def answers(family: int) -> Iterator[bytes]:
    """Yield the kernel's message about each established TCP connection. Raises OSError, struct.error."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(LIMIT)
        asked = REQUEST.pack(family, socket.IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 1 << ESTABLISHED)
        kernel.send(HEADER.pack(HEADER.size + len(asked), SOCK_DIAG_BY_FAMILY, REQUEST_DUMP, 1, 0) + asked)
        while True:
            data, at = kernel.recv(1 << 18), 0
            while at < len(data):
                size, kind = struct.unpack_from("=IH", data, at)
                if kind in (NLMSG_DONE, NLMSG_ERROR) or size < HEADER.size:
                    return
                yield data[at + HEADER.size : at + size]
                at += size + 3 & ~3


def attribute(message: bytes, wanted: int) -> bytes:
    """Return an attribute of a message about a connection; empty if it has none. Raises struct.error."""
    at = ATTRIBUTES
    while at < len(message):
        size, kind = ATTRIBUTE.unpack_from(message, at)
        if kind == wanted:
            return message[at + ATTRIBUTE.size : at + size]
        at += max(size, ATTRIBUTE.size) + 3 & ~3
    return b""
