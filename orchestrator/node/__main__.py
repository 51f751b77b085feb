"""Entry point of the node program: ``python3 node-<hash>.pyz VERB``, request on stdin, answers on stdout.

The exceptions are ``task FOLDER``, with which a batch job starts its part on a node, and ``mpi-...``, the roles in
a run that mpirun starts.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

from ..protocol import frames
from ..protocol.refusal import Refusal, Refused
from ..protocol.shapes import Misshapen
from .host import paths, processes

# For each verb: its module, the function that answers it, and the module and class of its request. A module is
# imported only when its verb is called, which keeps the start fast.
VERBS = {
    "facts": ("probe.facts", "answer", "facts", "AskFacts"),
    "store": ("store.trees", "answer", "transfer", "Store"),
    "environment": ("store.environment", "answer", "transfer", "BuildEnvironment"),
    "image": ("container.image", "answer", "container.image", "AskImage"),
    "relay": ("store.relay", "answer", "transfer", "Relay"),
    "verify": ("store.trees", "verify", "transfer", "Verify"),
    "token": ("host.shared_disk", "answer", "transfer", "SharedDiskToken"),
    "prune": ("store.prune", "answer", "transfer", "Prune"),
    "used": ("store.prune", "answer_used", "transfer", "ListUsed"),
    "start": ("run.start", "answer", "run", "Start"),
    "follow": ("run.follow", "answer", "run", "Follow"),
    "stop": ("run.stop", "answer", "run", "Stop"),
    "runs": ("run.runs", "answer", "run", "ListRuns"),
    "stacks": ("tracing.stacks", "answer", "tracing.stacks", "AskStacks"),
    "keys": ("keys.arrange", "answer", "keys", "ArrangeKeys"),
    "collect": ("run.collect", "answer", "transfer", "Collect"),
    "check-job": ("slurm.jobs", "answer_check", "slurm", "CheckJob"),
    "submit": ("slurm.jobs", "answer_submit", "slurm", "Submit"),
    "jobs": ("slurm.jobs", "answer_jobs", "slurm", "ListJobs"),
    "cancel": ("slurm.jobs", "answer_cancel", "slurm", "CancelJob"),
}


def main() -> int:
    """Read the request and answer it; send a ``Refusal`` if that fails. Return the exit code, 0."""
    # orch's own files are private to this user; ranks and the user's data get the user's own umask.
    processes.login_umask = os.umask(0o077)
    if sys.argv[1:2] == ["task"]:
        from .slurm import task

        return task.main(sys.argv[2])
    if sys.argv[1:2] and sys.argv[1].startswith("mpi-"):
        return mpi(sys.argv[1], sys.argv[2:])
    # Only frames go to the real stdout; anything printed by accident goes to stderr.
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
        # The control machine has gone, so no error can be reported.
        return 0
    return 0


def mpi(role: str, words: list[str]) -> int:
    """Take a role in a run that mpirun starts, and return the exit code."""
    os.umask(processes.login_umask)
    from .mpi import launch, rank

    if role == "mpi-lead":
        return launch.lead(words)
    if role == "mpi-agent":
        return launch.agent(words)
    if role == "mpi-daemon":
        return launch.daemon()
    code = rank.main()
    sys.stderr.flush()
    # At its end Python lets signals end it again before it has ended by itself.
    os._exit(code)


def obey(verb: str, request: dict[str, object], out: int) -> None:
    """Carry out a verb; raises Refused, Misshapen or OSError."""
    if not sys.platform.startswith("linux"):
        raise Refused("runs %s, and orch's nodes need Linux" % os.uname().sysname, "platform")
    module, function, messages, name = VERBS[verb]
    kind = getattr(importlib.import_module("..protocol." + messages, __package__), name)
    answer = getattr(importlib.import_module("." + module, __package__), function)
    asked = kind.from_wire(request, verb)
    if "place" in request:
        # The verb is about a node of a batch job, whose state is on a disk that this machine shares.
        from ..protocol.slurm import Place

        place = Place.from_wire(request["place"], "place")
        os.environ[paths.SHARED_STATE] = os.path.expanduser(place.state)
        os.environ["ORCH_HOSTNAME"] = place.hostname
    if verb == "facts":
        # Nodes that dial this one recognise it by the nonce of this call.
        answer(asked, out, str(request["nonce"]))
    else:
        answer(asked, out)
