"""The host's lock, which allows one run at a time.

The lock is an abstract Unix socket: local to the host, unlike a file in a home folder on NFS; freed by the kernel
however its holder ends; and also the supervisor's door (``door.py``) for ``status`` and ``stop``. Any user of the
host can bind such a name, so only answers of this user's processes are trusted. For another user's lock, the
kernel names the holder (SO_PEERCRED, unix(7)).
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
from .paths import SHARED_STATE, hostname

# How long ``ask`` waits for an answer by default, in seconds.
ANSWER_TIMEOUT = 10.0
# How often ``ask`` connects if the connection is closed before the answer.
ATTEMPTS = 3
# Most bytes of an answer.
MOST_ANSWER = 64 * 1024
# Most connections that wait to be accepted.
BACKLOG = 128


def address() -> str:
    """Return the lock's abstract address, which holds the host name because hosts of a sandbox share a kernel.

    The scheduler decides which jobs share a machine, so each job has a lock of its own.
    """
    job = os.environ.get(SHARED_STATE)
    return "\0orch-host-lock:" + hostname() + ("@" + os.path.basename(job) if job else "")


def acquire() -> socket.socket:
    """Take the lock and return its listening socket; raises Refused, naming the holder, if the lock is taken."""
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
            what = "the node's lock is held by %s" % (held_by.owner or "a program that is not an orch run")
        raise Refused(what, "busy") from None
    sock.listen(BACKLOG)
    return sock


def ask(question: Question, timeout: float = ANSWER_TIMEOUT, even_others: bool = False) -> Holder | None:
    """Ask the supervisor a question and return its answer, or None if no process listens at the lock.

    Only a refused connection means that no process listens: a supervisor that closes the connection may be short
    of time, and its run must not count as dead. The answer has ``error`` if the supervisor gives no valid answer
    within ``timeout`` seconds, and ``foreign`` if the lock is another user's. Answers of other users are ignored,
    and their supervisors are asked only with ``even_others``.
    """
    deadline = time.monotonic() + timeout
    why = "it closed the connection"
    uid = pid = -1
    for _ in range(ATTEMPTS):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            try:
                # With time limits of the kernel, clients that wait for space in the backlog are served in turn.
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
                why = "no answer within %g s" % timeout
                break
            except OSError as error:
                if error.errno == errno.EPROTOTYPE:
                    return Holder(foreign=True, owner="a program that is not an orch run")
                why = str(error)
                break
            except ValueError:
                why = "it sent an invalid answer"
                break
    return Holder(error="the supervisor does not answer: %s" % why)


class HungUp(Exception):
    """The supervisor closed the connection before its answer was complete, or sent too much."""


def exchange(sock: socket.socket, question: Question, deadline: float) -> bytes:
    """Send a question and return the line that answers it; raises HungUp, or BlockingIOError at the deadline.

    ``deadline``: by the monotonic clock.
    """
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
    """Limit calls on the socket to the time left before the deadline; raises BlockingIOError if it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise BlockingIOError(errno.EAGAIN, "no answer")
    span = struct.pack("ll", int(left), int(left % 1 * 1e6) or 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, span)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, span)


def holder() -> Holder | None:
    """Return the holder of the lock, as ``ask`` reports it; None if the lock is free."""
    return ask(AskStatus())


def foreign(uid: int, pid: int) -> Holder:
    """Return the description of a lock that another user holds."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = "another user"
    return Holder(foreign=True, owner="%s (uid %d, pid %s)" % (name, uid, pid or "unknown"))


def peer(connection: socket.socket) -> tuple[int, int]:
    """Return ``(user id, process id)`` of a Unix socket's peer; for a client, of the last caller of listen()."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", credentials)
    return uid, pid
