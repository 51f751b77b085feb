"""Entry of the node program: ``python3 node-<hash>.pyz VERB``, a JSON request on stdin, frames on stdout."""

from __future__ import annotations

import importlib
import json
import os
import sys

from ..protocol import frames
from ..protocol.refusal import Refusal, Refused
from ..protocol.shapes import Misshapen
from .host import processes

# Each verb's module, what answers it there, and its request; imported only when called, to start soon.
VERBS = {
    "facts": ("probe.facts", "answer", "facts", "AskFacts"),
    "store": ("store.trees", "answer", "transfer", "Store"),
    "environment": ("store.environment", "answer", "transfer", "BuildEnvironment"),
    "relay": ("store.relay", "answer", "transfer", "Relay"),
    "verify": ("store.trees", "verify", "transfer", "Verify"),
    "token": ("host.shared_disk", "answer", "transfer", "SharedDiskToken"),
    "prune": ("store.prune", "answer", "transfer", "Prune"),
    "used": ("store.prune", "answer_used", "transfer", "ListUsed"),
    "start": ("run.start", "answer", "run", "Start"),
    "follow": ("run.follow", "answer", "run", "Follow"),
    "stop": ("run.stop", "answer", "run", "Stop"),
    "runs": ("run.runs", "answer", "run", "ListRuns"),
    "collect": ("run.collect", "answer", "transfer", "Collect"),
}


def main() -> int:
    """Read the request, answer with frames; a failure is a ``Refusal``."""
    # Whatever is kept here is this user's alone; what ranks and users' data may be is the user's own choice.
    processes.login_umask = os.umask(0o077)
    # Frames own the real stdout; anything that prints by accident goes to stderr instead.
    out = os.dup(1)
    os.dup2(2, 1)
    frame = frames.read_frame(0)
    if frame is None:
        return 0
    request = json.loads(frame[1].decode("ascii"))
    try:
        frames.write_all(out, frames.preamble(request["nonce"]))
        try:
            obey(sys.argv[1], request, out)
        except BrokenPipeError:
            raise
        except Refused as error:
            frames.send(out, Refusal(error=str(error), kind=error.kind))
        except Misshapen as error:
            frames.send(out, Refusal(error="cannot read the request: %s" % error, kind="request"))
        except OSError as error:
            frames.send(out, Refusal(error=str(error), kind="os"))
    except BrokenPipeError:
        # The control machine has gone; there is nobody left to tell.
        return 0
    return 0


def obey(verb: str, request: dict[str, object], out: int) -> None:
    """Do it; raises Refused, Misshapen, OSError."""
    if not sys.platform.startswith("linux"):
        raise Refused("runs %s, and orch's nodes need Linux" % os.uname().sysname, "platform")
    module, function, messages, name = VERBS[verb]
    kind = getattr(importlib.import_module("..protocol." + messages, __package__), name)
    answer = getattr(importlib.import_module("." + module, __package__), function)
    asked = kind.from_wire(request, verb)
    if verb == "facts":
        # Nodes that dial this one know it by the nonce of its call.
        answer(asked, out, str(request["nonce"]))
    else:
        answer(asked, out)
