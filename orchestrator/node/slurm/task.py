"""A job's part on a compute node: fill in what is known only now, and be the supervisor, in the foreground."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import traceback

from ...protocol.events import FailedToStart, Finished, RankFailed, Stopping
from ...protocol.refusal import Refused
from ..host import lock, paths
from ..probe import facts
from ..run import journal, presence, start
from ..run.supervisor import Supervisor
from . import jobs, tidying

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...protocol.events import Event
    from ...protocol.run import Start
    from ...protocol.slurm import Starts

# How long the other nodes' ranks have to end after a failure, in seconds, as with a control process.
FAILURE_GRACE = 3.0


def main(folder: str) -> int:
    """Run this node's part of the job in ``folder`` to its end; return 0 if it succeeded, else 1."""
    rank, attempt = int(os.environ["SLURM_NODEID"]), int(os.environ.get("SLURM_RESTART_COUNT") or 0) + 1
    names = os.environ["ORCH_JOB_NODES"].split()
    os.environ.update({paths.SHARED_STATE: folder, "ORCH_HOSTNAME": "node%d" % rank})
    request = filled(tidying.requests(folder), rank, attempt, names)
    state = paths.attempt_dir(request.run_id, attempt)
    try:
        supervise(request, state)
    except (Refused, OSError) as error:
        record_failure(state, str(error))
        traceback.print_exc()
    events = journal.read(state)
    leave(folder, "%s.%d.%d" % (jobs.ENDED, attempt, rank))
    if any(isinstance(event, Finished) and event.exit_code == 0 for event in events):
        return 0
    if failed_by_itself(events):
        tell_others(folder, request, rank)
    return 1


def failed_by_itself(events: Sequence[Event]) -> bool:
    """Return whether a part that did not succeed had failed before anybody stopped it.

    The control process stops all nodes after a failure, also the failed one, whose launcher may still run then.
    """
    for event in events:
        if isinstance(event, (RankFailed, FailedToStart)):
            return True
        if isinstance(event, Stopping):
            return False
    return True


def supervise(request: Start, folder: str) -> None:
    """Make the folders of an attempt and supervise it to its end; raises Refused, OSError."""
    listener = lock.acquire()
    work = start.make_folders(request, folder)
    log = os.open(os.path.join(folder, "supervisor.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    sys.stdout.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    Supervisor(request, folder, work, listener).supervise()


def filled(known: Starts, rank: int, attempt: int, names: Sequence[str]) -> Start:
    """Return the request of one node, with its gaps filled. ``names``: the nodes, in node_rank order."""
    request = known.starts[rank]
    master = address_of(names[0])

    def fill(text: str) -> str:
        return text.replace(known.master, master).replace(known.attempt, str(attempt))

    variables = {name: fill(value) for name, value in request.env.items()}
    interface = interface_towards(master)
    if interface is not None:
        # "=" makes NCCL match the whole name. What the user or the hosts file says comes first.
        variables.setdefault("GLOO_SOCKET_IFNAME", interface)
        variables.setdefault("NCCL_SOCKET_IFNAME", "=" + interface)
    variables.update({"ORCH_ATTEMPT": str(attempt), "ORCH_NODE": names[rank]})
    return request.replace(
        attempt=attempt,
        node=names[rank],
        nodes=tuple(names),
        argv=tuple(fill(word) for word in request.argv),
        env=variables,
        files={fill(path): fill(text) for path, text in request.files.items()},
        # Outputs of an earlier run are laid over the working folder once, not over what an attempt has written.
        overlays=request.overlays if attempt == 1 else (),
    )


def address_of(name: str) -> str:
    """Return a node's numeric address; its name if that does not resolve, or resolves to a loopback address only.

    On many machines /etc/hosts has a loopback address for the machine's own name.
    """
    with contextlib.suppress(OSError):
        found = [entry[4][0] for entry in socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)]
        for address in found:
            if not str(address).startswith("127."):
                return str(address)
    return name


def interface_towards(address: str) -> str | None:
    """Return the network interface through which this node reaches an address, or None if it is not known."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            # No packet is sent: the kernel only chooses the way.
            sock.connect((address, 9))
            own = sock.getsockname()[0]
    except OSError:
        return None
    return next((name for name, other, _ in facts.addresses() if other == own and name != "lo"), None)


def record_failure(folder: str, error: str) -> None:
    """Record in the journal that the attempt could not start, where the control process will read it."""
    with contextlib.suppress(OSError):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        written = journal.Journal(folder)
        written.record(FailedToStart(time=time.time(), error=error))
        written.record(Finished(time=time.time(), exit_code=127, signal=None, stopped=False, killed=0))
        written.close()


def tell_others(folder: str, request: Start, rank: int) -> None:
    """Mark the attempt as failed, and stop the other nodes, whose ranks would wait in a collective."""
    leave(folder, "%s.%d" % (jobs.FAILED, request.attempt))
    for other in range(len(request.nodes)):
        state = os.path.join(folder, "node%d" % other, "runs", request.run_id, "attempt%d" % request.attempt)
        if other != rank and os.path.isdir(state):
            with contextlib.suppress(OSError):
                presence.ask_to_stop(state, FAILURE_GRACE)


def leave(folder: str, name: str) -> None:
    """Make an empty file, by which the batch script learns how the attempt ended."""
    with contextlib.suppress(OSError), open(os.path.join(folder, name), "w"):
        pass
