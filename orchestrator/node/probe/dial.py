"""Find out whether nodes can reach each other the way ranks do: every node listens, then all dial.

This continues the verb ``facts``; ``protocol/probe.py`` describes the conversation.
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

# Time limit for a connection, in seconds.
CONNECT_LIMIT = 2.0
# Number of round trips to measure.
TURNS = 5
# Length of a stream in bytes, and its time limit in seconds. A stream exceeds the packet size of every path, so
# full-size packets must get through; it takes less than a second at 5 Mbit/s.
BULK = 512 * 1024
BULK_LIMIT = 2.5
# A stream that takes longer than QUICK seconds is repeated up to AGAIN times, with a pause of PAUSE seconds.
QUICK, AGAIN, PAUSE = 0.02, 3, 0.1
# Number of datagrams, the interval between them, and the wait for the last ones, in seconds.
DATAGRAMS, DATAGRAM_INTERVAL, DATAGRAM_WAIT = 30, 0.01, 1.0
# Length of a greeting in bytes.
GREETING = 16
# How often to look for a port that is free at every address.
PORT_TRIES = 10
# How long nodes only count datagrams, in seconds; no streams are sent meanwhile.
QUIET = DATAGRAMS * DATAGRAM_INTERVAL + 0.5


def obey(nonce: str, out: int) -> None:
    """Listen and dial as the control side orders, report, and keep listening until stdin ends."""
    where = frames.receive(0, ListenFor)
    if where is None:
        return
    listener = EchoServer(nonce, listen_addresses(where.listen))
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
    """Sockets that greet with this node's nonce and then echo, in threads."""

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
        """Listen on ``master_port`` as well, unless it is None, and return all ports."""
        master = None if master_port is None else self.listen_at(master_port)
        return Listening(port=self.port, udp_port=self.udp_port, master=master)

    def listen_at(self, port: int) -> str:
        """Listen on a given port; return ``ok``, or why that fails."""
        try:
            for sock in opened(self.addresses, socket.SOCK_STREAM, port):
                self.serve(sock)
            return "ok"
        except OSError as error:
            return "in use" if error.errno == errno.EADDRINUSE else str(error.strerror)

    def serve(self, sock: socket.socket) -> None:
        """Accept connections in a thread."""
        threading.Thread(target=self.accept, args=(sock,), daemon=True).start()

    def accept(self, sock: socket.socket) -> None:
        """Accept connections, and echo each in a thread of its own."""
        while True:
            connection, _ = sock.accept()
            threading.Thread(target=self.echo, args=(connection,), daemon=True).start()

    def echo(self, connection: socket.socket) -> None:
        """Send the greeting, then echo what arrives."""
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
        """Echo the datagrams that arrive."""
        while True:
            try:
                data, sender = sock.recvfrom(2048)
                sock.sendto(data, sender)
            except OSError:
                continue


def listen_addresses(addresses: Sequence[str]) -> list[str]:
    """Return the addresses of this machine to listen at.

    An address that this machine does not have, because it is translated on the way, is replaced by the one that
    SSH came in on.
    """
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
    """Bind a socket to each address, all at ``port``, or for 0 at any port that is free at all of them.

    Stream sockets listen. Raises OSError if no such port is free.
    """
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
    """Dial one node and put the findings into ``results``. ``began``: monotonic time at which dialling began."""
    found = ProbeInProgress()
    try:
        found.look(target, orders, began)
    finally:
        results[target.node] = found.probe()


class ProbeInProgress:
    """Findings so far about another node, with the fields of ``protocol.probe.Probe``."""

    def __init__(self) -> None:
        self.tcp: dict[str, str] = {}
        self.rtt: float | None = None
        self.loss: float | None = None
        self.bulk: tuple[int, float] | None = None
        self.master: str | None = None

    def probe(self) -> Probe:
        """Return the findings as a message."""
        return Probe(tcp=self.tcp, rtt=self.rtt, loss=self.loss, bulk=self.bulk, master=self.master)

    def look(self, target: DialTarget, orders: Dial, began: float) -> None:
        """Connect to each address and the master port; if ``orders.thorough``, measure at the first address."""
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
                # A machine that was busy for a moment may lose packets once; a bad cable loses them again.
                self.loss = min(self.loss, loss(address, target.udp_port))
        if sock is None:
            return
        with sock:
            try:
                self.rtt = round_trip(sock)
                if target.streams:
                    # Wait until all nodes have counted their datagrams, because streams would push those out.
                    time.sleep(max(0.0, began + QUIET - time.monotonic()))
                    self.bulk = stream(sock, orders.seconds)
            except OSError:
                self.bulk = self.bulk or (0, 0.0)


def connect(address: str, port: int, nonce: str) -> tuple[str, socket.socket | None]:
    """Connect and read the greeting; return ``(verdict, connected socket or None)``.

    Verdicts are those of ``Probe.tcp``. Only with ``ok``, when the greeting is ``nonce``, is there a socket.
    """
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
    """Receive ``size`` bytes, or fewer if the connection ends."""
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            break
        data += piece
    return data


def round_trip(sock: socket.socket) -> float | None:
    """Return the shortest of ``TURNS`` round trips, in seconds; raises OSError."""
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
    """Measure as ``bulk`` does; repeat a complete but slow measurement, and return the fastest.

    A machine that is busy for a moment takes longer than ``QUICK`` seconds although its link is not slow.
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
    """Send a stream and receive its echo at the same time; return the bytes that came back, and the seconds.

    With ``seconds`` None, send BULK bytes and give up after BULK_LIMIT seconds; else send for that long.
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
    """Return the share of datagrams that do not come back, 0 to 1."""
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
