"""The host's lock: one run at a time.

It is an abstract Unix socket: local to the host (never a file on a home that may be NFS), freed by the
kernel however its holder ends, and at the same time the supervisor's door (``door.py``) for ``status`` and
``stop``. Any user of the host can take such a name, so only an answer of one's own user is believed; of
another's lock the kernel says whose it is (SO_PEERCRED, unix(7)).
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import socket
import struct
import time

from ...protocol.refusal import Refused
from ...protocol.run import AskStatus, Holder, Question
from ...protocol.shapes import decoded
from .paths import hostname

ANSWER_TIMEOUT = 10.0
ATTEMPTS = 3
MOST_ANSWER = 64 * 1024
BACKLOG = 128


def address() -> str:
    """The abstract address, one per host name (hosts of a sandbox share a kernel)."""
    return "\0orch-host-lock:" + hostname()


def acquire() -> socket.socket:
    """The listening socket that is the lock; raises Refused with the facts of the run that holds it."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(address())
    except OSError as error:
        sock.close()
        if error.errno != errno.EADDRINUSE:
            raise
        held_by = holder() or Holder()
        if held_by.run_id:
            what = "the node is busy with run %s" % held_by.run_id
        else:
            what = "the node's lock is held by %s" % (held_by.owner or "a program that is no run of orch's")
        raise Refused(what, "busy") from None
    sock.listen(BACKLOG)
    return sock


def ask(question: Question, timeout: float = ANSWER_TIMEOUT, even_others: bool = False) -> Holder | None:
    """Ask the supervisor; returns its answer, or None if nobody listens at the lock.

    Only a refused connection means that: a supervisor that hangs up may merely be short of time, and a run must
    not count as dead for it. ``error`` is set if there is one and it gives no answer; another user's lock is
    ``foreign``, and what that user says is thrown away. It is not even asked unless ``even_others``.
    """
    deadline = time.monotonic() + timeout
    why = "it hung up"
    uid = pid = -1
    for _ in range(ATTEMPTS):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            try:
                # The kernel's own time limits: who waits for room in the backlog is then served in turn.
                limit(sock, deadline)
                sock.connect(address())
                uid, pid = peer(sock)
                if uid == os.getuid():
                    return Holder.from_wire(decoded(exchange(sock, question, deadline)))
                if even_others:
                    exchange(sock, question, deadline)
                return foreign(uid, pid)
            except ConnectionRefusedError:
                return None
            except (ConnectionResetError, BrokenPipeError, HungUp):
                if even_others:
                    return foreign(uid, pid)
            except BlockingIOError:
                why = "it gave no answer within %g s" % timeout
                break
            except OSError as error:
                if error.errno == errno.EPROTOTYPE:
                    return Holder(foreign=True, owner="a program that is no run of orch's")
                why = str(error)
                break
            except ValueError:
                why = "it spoke nonsense"
                break
    return Holder(error="the supervisor does not answer: %s" % why)


class HungUp(Exception):
    """The supervisor closed the connection before its answer was whole."""


def exchange(sock: socket.socket, question: Question, deadline: float) -> bytes:
    """Send a question and return the line that answers it; raises HungUp, BlockingIOError at the deadline."""
    sock.sendall(json.dumps(question.to_wire()).encode("ascii") + b"\n")
    answer = b""
    while not answer.endswith(b"\n"):
        limit(sock, deadline)
        part = sock.recv(MOST_ANSWER)
        answer += part
        if not part or len(answer) > MOST_ANSWER:
            raise HungUp
    return answer


def limit(sock: socket.socket, deadline: float) -> None:
    """Let no call on the socket wait beyond the deadline; raises BlockingIOError if it is over."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise BlockingIOError(errno.EAGAIN, "no answer")
    span = struct.pack("ll", int(left), int(left % 1 * 1e6) or 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, span)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, span)


def holder() -> Holder | None:
    """The facts of the run that holds this host, as ``ask`` has them; None if there is none."""
    return ask(AskStatus())


def foreign(uid: int, pid: int) -> Holder:
    """What is said of another user's lock."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = "another user"
    return Holder(foreign=True, owner="%s (uid %d, pid %s)" % (name, uid, pid or "unknown"))


def peer(connection: socket.socket) -> tuple[int, int]:
    """``(user id, process id)`` at the other end of a Unix socket; of a listener, who called listen()."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", credentials)
    return uid, pid
