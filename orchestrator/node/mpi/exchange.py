"""How a daemon gets its command line from the first node: over a connection on which both prove to know the key.

mpirun would start its daemons by SSH, for which the first node would need a login on all others. Here each node
runs a part of the attempt already, which asks the first node for the command line. Both sides answer the other's
nonce with an HMAC (RFC 2104) of it, so that nobody else can give a command, nor ask for one.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import socket
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .part import Place

# How long one message may take, and the interval of looks for a command line, in seconds.
TALK, LOOK = 20.0, 0.05
# How long a daemon waits for its command line, in seconds.
PATIENCE = 600.0
# Pause between two tries to connect, in seconds.
RETRY = 0.2
# Most bytes of a message.
MOST = 1 << 20


class NoCommand(Exception):
    """The first node gave no command line."""


class Counter:
    """The first node's side: gives each other host the command line that mpirun's launch agent left for it.

    It stops listening once all hosts have theirs, so that rank 0 can listen at the same port afterwards.
    """

    def __init__(self, place: Place) -> None:
        """Listen; raises OSError if the port is taken."""
        self.place = place
        self.waiting = set(place.part.hosts[1:])
        self._lock = threading.Lock()
        family = socket.AF_INET6 if ":" in place.part.host else socket.AF_INET
        self._listener = socket.socket(family, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((place.part.host, place.part.port))
        self._listener.listen(1024)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while self.waiting:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        host = ""
        with connection:
            try:
                connection.settimeout(TALK)
                nonce = secrets.token_hex(16)
                send(connection, {"nonce": nonce})
                asked = receive(connection)
                host = str(asked.get("host"))
                if not same(asked, self.place, "daemon", nonce, host) or host not in self.waiting:
                    host = ""
                    return
                path = self.place.command_file(host)
                while not os.path.exists(path):
                    time.sleep(LOOK)
                with open(path) as file:
                    command = file.read()
                proof = mac(self.place, "lead", str(asked.get("nonce")), command)
                with self._lock:
                    self.waiting.discard(host)
                    if not self.waiting:
                        # Closing alone would leave the thread in accept() listening.
                        self._listener.shutdown(socket.SHUT_RDWR)
                        self._listener.close()
                send(connection, {"command": command, "mac": proof})
                # The daemon inherits the connection, which ends with it.
                connection.settimeout(None)
                connection.recv(1)
            except (OSError, ValueError):
                return
            finally:
                if host not in self.waiting and host:
                    with open(self.place.over_file(host), "w"):
                        pass


def command_for(place: Place) -> str:
    """Return this node's command line, once mpirun asks for its daemon. Raises NoCommand."""
    until = time.monotonic() + PATIENCE
    why = "no answer"
    while time.monotonic() < until:
        try:
            connection = socket.create_connection((place.part.hosts[0], place.part.port), TALK)
            try:
                command = _asked(place, connection, until)
                # Open, also across exec, until this node's daemon ends: the first node sees that.
                connection.set_inheritable(True)
                connection.detach()
                return command
            finally:
                connection.close()
        except (OSError, ValueError) as error:
            why = str(error)
            time.sleep(RETRY)
    raise NoCommand("mpirun on %s asked for no daemon here: %s" % (place.part.hosts[0], why))


def _asked(place: Place, connection: socket.socket, until: float) -> str:
    nonce = secrets.token_hex(16)
    offered = str(receive(connection).get("nonce"))
    send(
        connection,
        {"host": place.part.host, "nonce": nonce, "mac": mac(place, "daemon", offered, place.part.host)},
    )
    connection.settimeout(max(TALK, until - time.monotonic()))
    told = receive(connection)
    command = str(told.get("command"))
    if not same(told, place, "lead", nonce, command):
        raise ValueError("an answer without the attempt's key")
    return command


def mac(place: Place, *words: str) -> str:
    """Return the proof that the sender of ``words`` knows the attempt's key."""
    return hmac.new(place.part.key.encode(), json.dumps(words).encode(), "sha256").hexdigest()


def same(message: dict[str, Any], place: Place, *words: str) -> bool:
    """Return whether a message proves that its sender knows the attempt's key."""
    return hmac.compare_digest(str(message.get("mac")), mac(place, *words))


def send(connection: socket.socket, message: dict[str, str]) -> None:
    """Send one message, a JSON object and a newline. Raises OSError."""
    connection.sendall(json.dumps(message).encode("ascii") + b"\n")


def receive(connection: socket.socket) -> dict[str, Any]:
    """Return one message. Raises OSError, and ValueError for anything else."""
    data = b""
    while not data.endswith(b"\n"):
        piece = connection.recv(65536)
        if not piece or len(data) > MOST:
            raise ValueError("the other side sent no message")
        data += piece
    found = json.loads(data.decode("ascii"))
    if not isinstance(found, dict):
        raise ValueError("not a message")
    return found
