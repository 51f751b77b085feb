"""Entry of the node program: ``python3 node-<hash>.pyz VERB``, a JSON request on stdin, frames on stdout."""

import importlib
import json
import os
import sys

from . import processes, wire
from .refusal import Refused

# Each verb's module is imported only when called: a zipapp is compiled anew at every start.
VERBS = {
    "facts": ("facts", "answer"),
    "store": ("store", "answer"),
    "environment": ("environment", "answer"),
    "relay": ("relay", "answer"),
    "verify": ("store", "verify"),
    "token": ("place", "answer"),
    "prune": ("tidy", "answer"),
    "used": ("tidy", "answer_used"),
    "start": ("start", "answer"),
    "follow": ("follow", "answer"),
    "stop": ("sweep", "answer"),
    "runs": ("runs", "answer"),
    "status": ("lock", "answer_status"),
    "collect": ("outputs", "answer"),
}


def main():
    """Read the request, answer with frames; a failure is a frame too: ``{"error", "kind", "details"}``."""
    # Whatever is kept here is this user's alone; what ranks and users' data may be is the user's own choice.
    processes.login_umask = os.umask(0o077)
    # Frames own the real stdout; anything that prints by accident goes to stderr instead.
    out = os.dup(1)
    os.dup2(2, 1)
    frame = wire.read_frame(0)
    if frame is None:
        return 0
    request = json.loads(frame[1].decode("ascii"))
    module, function = VERBS[sys.argv[1]]
    try:
        wire.write_all(out, wire.preamble(request["nonce"]))
        try:
            if not sys.platform.startswith("linux"):
                raise Refused("runs %s, and orch's nodes need Linux" % os.uname().sysname, "platform")
            verb = getattr(importlib.import_module("." + module, __package__), function)
            verb(request, out)
        except BrokenPipeError:
            raise
        except Refused as error:
            answer = {"error": str(error), "kind": error.kind, "details": error.details}
            wire.write_all(out, wire.json_frame(answer))
        except OSError as error:
            wire.write_all(out, wire.json_frame({"error": str(error), "kind": "os", "details": {}}))
    except BrokenPipeError:
        # The control machine has gone; there is nobody left to tell.
        return 0
    return 0
