"""The host's lock: one run at a time.

It is an abstract Unix socket: local to the host (never a file on a home that may be NFS), freed by the
kernel however its holder ends, and at the same time the supervisor's door for ``status`` and ``stop``.
"""

import errno
import json
import os
import socket
import struct

from . import paths, wire
from .refusal import Refused

ANSWER_TIMEOUT = 10.0
ATTEMPTS = 3


def address():
    """The abstract address, one per host name (hosts of a sandbox share a kernel)."""
    return "\0orch-host-lock:" + paths.hostname()


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
        raise Refused("the node is busy with run %s" % held_by.get("run_id", "?"), "busy", held_by) from None
    sock.listen(16)
    return sock


def ask(question, timeout=ANSWER_TIMEOUT):
    """Put a question (a dict) to the supervisor; its answer (a dict), or None if no run holds the lock.

    Only a refused connection means that: a supervisor that hangs up may merely be short of time, and a run must
    not count as dead for it. ``{"error": why}`` if there is one and it gives no answer.
    """
    why = "it hung up"
    for _ in range(ATTEMPTS):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        try:
            sock.connect(address())
            sock.sendall(json.dumps(question).encode("ascii") + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                part = sock.recv(65536)
                if not part:
                    break
                answer += part
            if answer.endswith(b"\n"):
                return json.loads(answer.decode("ascii"))
        except ConnectionRefusedError:
            return None
        except (ConnectionResetError, BrokenPipeError):
            continue
        except (socket.timeout, OSError) as error:
            why = str(error)
            break
        finally:
            sock.close()
    return {"error": "the supervisor does not answer: %s" % why}


def holder():
    """The facts of the run that holds this host: run id, owner, start time; None if there is none."""
    return ask({"op": "status"})


def peer_uid(connection):
    """The user id at the other end of a Unix socket (SO_PEERCRED; unix(7))."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", credentials)[1]


def may_stop(uid):
    """Only the owner of a run, or root, may end it."""
    return uid in (0, os.getuid())


def answer_status(request, out):
    """The verb ``status``: the run that holds this host, or null."""
    wire.write_all(out, wire.json_frame({"running": holder()}))
