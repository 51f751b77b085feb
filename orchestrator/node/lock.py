"""The host's lock: one run at a time.

It is an abstract Unix socket: local to the host (never a file on a home that may be NFS), freed by the
kernel however its holder ends, and at the same time the supervisor's door (``door.py``) for ``status`` and
``stop``. Any user of the host can take such a name, so only an answer of one's own user is believed; of
another's lock the kernel says whose it is (SO_PEERCRED, unix(7)).
"""

import errno
import json
import os
import pwd
import socket
import struct
import time

from . import wire
from .paths import hostname
from .refusal import Refused

ANSWER_TIMEOUT = 10.0
ATTEMPTS = 3
MOST_ANSWER = 64 * 1024
BACKLOG = 128


def address():
    """The abstract address, one per host name (hosts of a sandbox share a kernel)."""
    return "\0orch-host-lock:" + hostname()


def acquire():
    """The listening socket that is the lock; raises Refused with the facts of the run that holds it."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(address())
    except OSError as error:
        sock.close()
        if error.errno != errno.EADDRINUSE:
            raise
        held_by = holder() or {}
        if held_by.get("run_id"):
            what = "the node is busy with run %s" % held_by["run_id"]
        else:
            what = "the node's lock is held by %s" % (held_by.get("owner") or "a program that is no run of orch's")
        raise Refused(what, "busy", held_by) from None
    sock.listen(BACKLOG)
    return sock


def ask(question, timeout=ANSWER_TIMEOUT, even_others=False):
    """Put a question (a dict) to the supervisor; its answer (a dict), or None if nobody answers at the lock.

    Only a refused connection means that: a supervisor that hangs up may merely be short of time, and a run must
    not count as dead for it. ``{"error": why}`` if there is one and it gives no answer; another user's lock is
    ``{"foreign": true, "owner": text}``, and what that one says is thrown away. It is not even asked unless
    ``even_others``.
    """
    deadline = time.monotonic() + timeout
    why = "it hung up"
    for _ in range(ATTEMPTS):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            try:
                # The kernel's own time limits: who waits for room in the backlog is then served in turn.
                limit(sock, deadline)
                sock.connect(address())
                uid, pid = peer(sock)
                if uid == os.getuid():
                    return json.loads(exchange(sock, question, deadline).decode("ascii"))
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
                    return {"foreign": True, "owner": "a program that is no run of orch's"}
                why = str(error)
                break
            except ValueError:
                why = "it spoke nonsense"
                break
    return {"error": "the supervisor does not answer: %s" % why}


class HungUp(Exception):
    """The supervisor closed the connection before its answer was whole."""


def exchange(sock, question, deadline):
    """Send a question and return the line that answers it; raises HungUp, BlockingIOError at the deadline."""
    sock.sendall(json.dumps(question).encode("ascii") + b"\n")
    answer = b""
    while not answer.endswith(b"\n"):
        limit(sock, deadline)
        part = sock.recv(MOST_ANSWER)
        answer += part
        if not part or len(answer) > MOST_ANSWER:
            raise HungUp
    return answer


def limit(sock, deadline):
    """Let no call on the socket wait beyond the deadline; raises BlockingIOError if it is over."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise BlockingIOError(errno.EAGAIN, "no answer")
    span = struct.pack("ll", int(left), int(left % 1 * 1e6) or 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, span)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, span)


def holder():
    """The facts of the run that holds this host, as ``ask`` has them; None if there is none."""
    return ask({"op": "status"})


def foreign(uid, pid):
    """What is said of another user's lock."""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = "another user"
    return {"foreign": True, "owner": "%s (uid %d, pid %s)" % (name, uid, pid or "unknown")}


def peer(connection):
    """``(user id, process id)`` at the other end of a Unix socket; of a listener, who called listen()."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _ = struct.unpack("3i", credentials)
    return uid, pid


def answer_status(request, out):
    """The verb ``status``: the run that holds this host, or null."""
    wire.write_all(out, wire.json_frame({"running": holder()}))
