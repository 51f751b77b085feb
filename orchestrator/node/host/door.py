"""The supervisor's side of the host's lock: questions come in, and nothing that comes in holds it up or ends it.

Only this user's processes and root's are heard; anybody else is hung up on before a byte is read. A question is
one line of at most ``MOST_QUESTION`` bytes, and has to be there within ``QUESTION_LIMIT`` seconds.
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
# How many may be taken in at one time, and how many may wait to be heard.
MOST_AT_ONCE, MOST_WAITING = 64, 64


class Door:
    """The listening socket that is the lock, and those who have connected to it."""

    def __init__(self, listener: socket.socket) -> None:
        self.listener = listener
        listener.setblocking(False)
        # Again, by this process: the kernel names whoever did it last as the holder.
        listener.listen(lock.BACKLOG)
        self.waiting: dict[socket.socket, tuple[bytearray, float]] = {}

    def sockets(self) -> list[socket.socket]:
        """What to wait for."""
        return [self.listener] + list(self.waiting)

    def close(self) -> None:
        """Give the lock up, and hang up on whoever still asks."""
        for sock in self.sockets():
            sock.close()

    def questions(self, ready: Sequence[object]) -> list[tuple[socket.socket, Question]]:
        """The questions that are whole by now: ``[(connection, question)]``; the connections are the caller's."""
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
        """Take in those who may ask; the others are sent away."""
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
    """A question, or None for what is none."""
    try:
        question: Question = QUESTION(decoded(line), "question")
        return question
    except Misshapen:
        return None


def reply(asker: socket.socket, value: Holder) -> None:
    """Answer and hang up; an asker that has gone, or does not listen, is no error."""
    with contextlib.suppress(OSError):
        asker.send(json.dumps(value.to_wire()).encode("ascii") + b"\n")
    asker.close()
