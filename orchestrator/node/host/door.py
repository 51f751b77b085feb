"""The lock's door: the supervisor takes questions through the lock's socket, and no client can block or end it.

Only processes of this user and root are heard; other connections are closed before a byte is read. A question is
one line of at most ``MOST_QUESTION`` bytes, and must arrive within ``QUESTION_LIMIT`` seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time

from ...protocol.run import QUESTION, Holder, Question
from ...protocol.shapes import Misshapen, decoded
from . import lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_QUESTION = 4096
QUESTION_LIMIT = 2.0
# Most connections to accept in one call, and most that may be open without a complete question.
MOST_AT_ONCE, MOST_WAITING = 64, 64


class Door:
    """The listening socket, which is the lock, and the connections to it."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        listener.setblocking(False)
        # Listen again in this process, because the kernel names the last caller of listen() as the lock's holder.
        listener.listen(lock.BACKLOG)
        self.waiting: dict[socket.socket, tuple[bytearray, float]] = {}

    def sockets(self) -> list[socket.socket]:
        """Return the sockets to wait for."""
        return [self.listener] + list(self.waiting)

    def close(self) -> None:
        """Release the lock and close the connections whose questions are incomplete."""
        for sock in self.sockets():
            sock.close()

    def questions(self, ready: Sequence[object]) -> list[tuple[socket.socket, Question]]:
        """Return complete questions as ``[(connection, question)]``; the caller must close each connection.

        ``ready``: the sockets that are readable. Connections with invalid or late questions are closed.
        """
        if self.listener in ready:
            self.admit()
        found = []
        for asker in [asker for asker in self.waiting if asker in ready]:
            said, _ = self.waiting[asker]
            try:
                piece = asker.recv(MOST_QUESTION)
            except OSError:
                piece = b""
            said.extend(piece)
            if said.endswith(b"\n") or not piece or len(said) > MOST_QUESTION:
                del self.waiting[asker]
                question = parsed(bytes(said))
                if question is None:
                    asker.close()
                else:
                    found.append((asker, question))
        now = time.monotonic()
        for asker in [asker for asker, (_, until) in self.waiting.items() if now > until]:
            del self.waiting[asker]
            asker.close()
        return found

    def admit(self) -> None:
        """Accept waiting connections; close those of other users, and those beyond ``MOST_WAITING``."""
        for _ in range(MOST_AT_ONCE):
            try:
                asker, _ = self.listener.accept()
            except OSError:
                return
            try:
                welcome = lock.peer(asker)[0] in (0, os.getuid()) and len(self.waiting) < MOST_WAITING
                asker.setblocking(False)
            except OSError:
                welcome = False
            if welcome:
                self.waiting[asker] = bytearray(), time.monotonic() + QUESTION_LIMIT
            else:
                asker.close()


def parsed(line: bytes) -> Question | None:
    """Return the question in a line, or None if the line holds none."""
    try:
        question: Question = QUESTION(decoded(line), "question")
        return question
    except Misshapen:
        return None


def reply(asker: socket.socket, value: Holder) -> None:
    """Send an answer and close the connection; a client that has gone or does not read is no error."""
    with contextlib.suppress(OSError):
        asker.send(json.dumps(value.to_wire()).encode("ascii") + b"\n")
    asker.close()
