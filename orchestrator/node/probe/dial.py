"""Can the nodes talk to each other the way a run does? Every node listens, then all dial.

It goes with ``facts``; ``protocol/probe.py`` has the conversation.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time

from ...protocol import frames
from ...protocol.probe import Dial, Found, ListenFor, Listening, Probe
from . import logins

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...protocol.probe import DialTarget

CONNECT_LIMIT = 2.0
TURNS = 5
# More than any path's packet, so that full-size packets must get through; less than a second at 5 Mbit/s.
BULK = 512 * 1024
BULK_LIMIT = 2.5
# A stream that took longer than this many seconds is tried again, so often, after so long.
QUICK, AGAIN, PAUSE = 0.02, 3, 0.1
DATAGRAMS, DATAGRAM_INTERVAL, DATAGRAM_WAIT = 30, 0.01, 1.0
GREETING = 16
PORT_TRIES = 10
# How long the nodes only count datagrams, in seconds.
QUIET = DATAGRAMS * DATAGRAM_INTERVAL + 0.5


def obey(nonce: str, out: int) -> None:
    """Listen where that is ordered, dial as ordered, report, and stay until the end of stdin."""
    where = frames.receive(0, ListenFor)
    if where is None:
        return
    listener = EchoServer(nonce, own(where.listen))
    frames.send(out, listener.ports(where.master_port))
    orders = frames.receive(0, Dial)
    if orders is None:
        return
    results: dict[str, Probe] = {}
    threads = []
    began = time.monotonic()
    for target in orders.targets:
        thread = threading.Thread(target=dial, args=(target, orders, began, results), daemon=True)
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join()
    frames.send(out, Found(results=results, logins=logins.logins(orders.logins)))
    frames.read_frame(0)


class EchoServer:
    """Sockets at these addresses that greet with this node's nonce and then echo, in the background."""

    def __init__(self, nonce: str, addresses: Sequence[str]) -> None:
        self.greeting = nonce.encode("ascii").ljust(GREETING)[:GREETING]
        self.addresses = addresses
        streams = opened(addresses, socket.SOCK_STREAM, 0)
        self.port = streams[0].getsockname()[1]
        for sock in streams:
            self.serve(sock)
        datagrams = opened(addresses, socket.SOCK_DGRAM, 0)
        self.udp_port = datagrams[0].getsockname()[1]
        for sock in datagrams:
            threading.Thread(target=self.echo_datagrams, args=(sock,), daemon=True).start()

    def ports(self, master_port: int | None) -> Listening:
        """Where it listens, at ``master_port`` too unless that is None."""
        master = None if master_port is None else self.listen_at(master_port)
        return Listening(port=self.port, udp_port=self.udp_port, master=master)

    def listen_at(self, port: int) -> str:
        """Serve a port that was asked for; ``ok``, or why it cannot be."""
        try:
            for sock in opened(self.addresses, socket.SOCK_STREAM, port):
                self.serve(sock)
            return "ok"
        except OSError as error:
            return "in use" if error.errno == errno.EADDRINUSE else str(error.strerror)

    def serve(self, sock: socket.socket) -> None:
        """Accept in the background."""
        threading.Thread(target=self.accept, args=(sock,), daemon=True).start()

    def accept(self, sock: socket.socket) -> None:
        """A thread for each that dials."""
        while True:
            connection, _ = sock.accept()
            threading.Thread(target=self.echo, args=(connection,), daemon=True).start()

    def echo(self, connection: socket.socket) -> None:
        """Greet, then send back what comes."""
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(self.greeting)
            while True:
                data = connection.recv(256 * 1024)
                if not data:
                    return
                connection.sendall(data)
        except OSError:
            return
        finally:
            connection.close()

    def echo_datagrams(self, sock: socket.socket) -> None:
        """Send back what comes."""
        while True:
            try:
                data, sender = sock.recvfrom(2048)
                sock.sendto(data, sender)
            except OSError:
                continue


def own(addresses: Sequence[str]) -> list[str]:
    """Those of the addresses that are this machine's; for one that is translated on its way, SSH's own."""
    found = []
    for address in addresses:
        try:
            with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as sock:
                sock.bind((address, 0))
        except OSError:
            address = (os.environ.get("SSH_CONNECTION", "").split()[2:3] or ["127.0.0.1"])[0]
        if address not in found:
            found.append(address)
    return found


def opened(addresses: Sequence[str], kind: socket.SocketKind, port: int) -> list[socket.socket]:
    """A socket at each of the addresses, all at one port: ``port``, or for 0 any that is free at all of them."""
    for _ in range(PORT_TRIES):
        found = []
        try:
            for address in addresses:
                sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
                found.append(sock)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind == socket.SOCK_STREAM))
                sock.bind((address, port or (found[0].getsockname()[1] if len(found) > 1 else 0)))
                if kind == socket.SOCK_STREAM:
                    sock.listen(256)
            return found
        except OSError as error:
            for sock in found:
                sock.close()
            if port or error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, "no port is free at %s" % ", ".join(addresses))


def dial(target: DialTarget, orders: Dial, began: float, results: dict[str, Probe]) -> None:
    """Find out all about one other node; the answer goes to ``results``."""
    found = Findings()
    try:
        found.look(target, orders, began)
    finally:
        results[target.node] = found.probe()


class Findings:
    """What is known so far of another node, as ``protocol.probe.Probe`` has it."""

    def __init__(self) -> None:
        self.tcp: dict[str, str] = {}
        self.rtt: float | None = None
        self.loss: float | None = None
        self.bulk: tuple[int, float] | None = None
        self.master: str | None = None

    def probe(self) -> Probe:
        """The message."""
        return Probe(tcp=self.tcp, rtt=self.rtt, loss=self.loss, bulk=self.bulk, master=self.master)

    def look(self, target: DialTarget, orders: Dial, began: float) -> None:
        """Connect to each address, then measure at the first."""
        for address in target.addresses[1:]:
            self.tcp[address], sock = connect(address, target.port, target.nonce)
            if sock is not None:
                sock.close()
        address = target.addresses[0]
        self.tcp[address], sock = connect(address, target.port, target.nonce)
        if target.master_port:
            self.master, other = connect(address, target.master_port, target.nonce)
            if other is not None:
                other.close()
        if not orders.thorough:
            if sock is not None:
                sock.close()
            return
        if target.streams:
            self.loss = loss(address, target.udp_port)
            if self.loss:
                # A machine that was busy for a moment is no bad cable: that one loses packets again.
                self.loss = min(self.loss, loss(address, target.udp_port))
        if sock is None:
            return
        with sock:
            try:
                self.rtt = round_trip(sock)
                if target.streams:
                    # Not before all have counted their datagrams: streams would push them out.
                    time.sleep(max(0.0, began + QUIET - time.monotonic()))
                    self.bulk = stream(sock, orders.seconds)
            except OSError:
                self.bulk = self.bulk or (0, 0.0)


def connect(address: str, port: int, nonce: str) -> tuple[str, socket.socket | None]:
    """``(verdict, connected socket or None)``; a socket only for the machine that is meant."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.settimeout(CONNECT_LIMIT)
    verdict = "ok"
    try:
        sock.connect((address, port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if received(sock, GREETING).decode("ascii", "replace").strip() != nonce:
            verdict = "other"
    except socket.timeout:
        verdict = "timeout"
    except ConnectionRefusedError:
        verdict = "refused"
    except OSError as error:
        verdict = "unreachable" if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH) else str(error.strerror)
    if verdict == "ok":
        return verdict, sock
    sock.close()
    return verdict, None


def received(sock: socket.socket, size: int) -> bytes:
    """``size`` bytes, fewer at the end."""
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            break
        data += piece
    return data


def round_trip(sock: socket.socket) -> float | None:
    """The quickest of a few, in seconds."""
    sock.settimeout(CONNECT_LIMIT)
    best: float | None = None
    for _ in range(TURNS):
        began = time.monotonic()
        sock.sendall(b"?")
        received(sock, 1)
        took = time.monotonic() - began
        best = took if best is None else min(best, took)
    return best


def stream(sock: socket.socket, seconds: float | None) -> tuple[int, float]:
    """``bulk``; one that came whole but late is tried again, and the quickest counts.

    A machine that was busy for a moment is no slow link, and twenty milliseconds are but a moment.
    """
    found = bulk(sock, seconds)
    for _ in range(AGAIN):
        if seconds is not None or found[0] < BULK or found[1] < QUICK:
            break
        time.sleep(PAUSE)
        other = bulk(sock, seconds)
        found = other if other[0] >= BULK and other[1] < found[1] else found
    return found


def bulk(sock: socket.socket, seconds: float | None) -> tuple[int, float]:
    """Bytes that came back, and seconds, of a stream that goes both ways at once.

    ``seconds`` None: BULK bytes, given up after BULK_LIMIT; else as much as comes back in that time.
    """
    limit = BULK_LIMIT if seconds is None else seconds
    deadline = time.monotonic() + limit
    block = os.urandom(64 * 1024)
    stopped = threading.Event()

    def send() -> None:
        sent = 0
        try:
            while not stopped.is_set() and (seconds is not None or sent < BULK):
                sent += sock.send(block if seconds is not None else block[: BULK - sent])
        except OSError:
            return

    sock.settimeout(limit)
    began = time.monotonic()
    threading.Thread(target=send, daemon=True).start()
    back = 0
    while time.monotonic() < deadline and (seconds is not None or back < BULK):
        sock.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            piece = sock.recv(256 * 1024)
        except socket.timeout:
            break
        if not piece:
            break
        back += len(piece)
    stopped.set()
    return back, time.monotonic() - began


def loss(address: str, port: int) -> float:
    """The share of datagrams that do not come back, 0 to 1."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(DATAGRAM_INTERVAL)
        came: set[bytes] = set()

        def listen(until: float) -> None:
            while time.monotonic() < until and len(came) < DATAGRAMS:
                try:
                    came.add(sock.recv(64))
                except socket.timeout:
                    continue
                except OSError:
                    return

        for number in range(DATAGRAMS):
            try:
                sock.sendto(b"%d" % number, (address, port))
            except OSError:
                continue
            listen(time.monotonic() + DATAGRAM_INTERVAL)
        listen(time.monotonic() + DATAGRAM_WAIT)
        return 1.0 - len(came) / DATAGRAMS
