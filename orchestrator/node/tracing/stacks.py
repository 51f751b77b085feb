"""The verb ``stacks``: read the stacks of a run's ranks with py-spy, which stops each for some milliseconds."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor

from ...protocol import frames
from ...protocol.tracing.stacks import Frame, RankStack, StacksHere, Thread
from ..host import bounded, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...protocol.tracing.stacks import AskStacks

# Longest time for one rank, in seconds: symbols of compiled code may have to be read.
LIMIT, NATIVE_LIMIT = 8.0, 25.0
# How many ranks are read at once.
AT_ONCE = 8
NOT_ALLOWED = "no right to read it"


def answer(request: AskStacks, out: int) -> None:
    """Send the stacks of the run's ranks on this node."""
    frames.send(out, stacks(request))


def stacks(request: AskStacks) -> StacksHere:
    """Return the stacks of the run's ranks on this node."""
    found = workers(request.run_id)
    if not found:
        return StacksHere()
    tool = ready(request)
    if tool is None:
        return StacksHere(error="there is no py-spy for this machine")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ranks = pool.map(lambda worker: stack(tool, request.native, *worker), found)
        return StacksHere(ranks=tuple(sorted(ranks, key=lambda each: each.rank)))


def workers(run_id: str) -> list[tuple[int, int, int]]:
    """Return rank, local rank and process id of each worker of a run: what its launcher started with a RANK."""
    found = []
    for pid, mark in processes.marks().items():
        rank, local_rank = processes.variable(pid, "RANK"), processes.variable(pid, "LOCAL_RANK")
        parent = (processes.stat(pid) or ("", 0))[1]
        if mark[0] == run_id and rank and local_rank and not processes.variable(parent, "LOCAL_RANK"):
            found.append((int(rank), int(local_rank), pid))
    return found


def ready(request: AskStacks) -> str | None:
    """Return the path of a py-spy that can be started: the node's own, else the one that was sent."""
    beside = os.path.dirname(os.path.expanduser(request.python or ""))
    for folder in filter(None, (beside, os.environ.get("PATH", os.defpath))):
        own = shutil.which("py-spy", path=folder)
        if own is not None:
            return own
    if request.tool is None or request.machine != os.uname().machine:
        return None
    path = os.path.join(os.path.expanduser(request.workdir), request.tool)
    with open(path, "rb") as file:
        if hashlib.sha256(file.read()).hexdigest() != request.sha:
            return None
    os.chmod(path, 0o700)
    return path


def stack(tool: str, native: bool, rank: int, local_rank: int, pid: int) -> RankStack:
    """Return the stack of one rank."""
    known = RankStack(rank=rank, local_rank=local_rank, pid=pid)
    argv = [tool, "dump", "--json", "--pid", str(pid), *(["--native"] if native else [])]
    try:
        told = json.loads(bounded.run(argv, NATIVE_LIMIT if native else LIMIT))
        return known.replace(threads=tuple(thread(each, pid) for each in told))
    except bounded.NoAnswer as error:
        said = str(error)
        denied = "permission denied" in said.lower() or "operation not permitted" in said.lower()
        return known.replace(error=NOT_ALLOWED if denied else said)
    except (ValueError, KeyError, TypeError) as error:
        return known.replace(error="py-spy's answer cannot be read: %s" % error)


def thread(told: dict[str, object], pid: int) -> Thread:
    """Return a thread as py-spy tells of it."""
    listed = told["frames"]
    assert isinstance(listed, list)
    name = str(told.get("thread_name") or "")
    calls = [
        Frame(name=str(each["name"]), file=str(each["filename"]), line=max(0, int(each["line"] or 0)))
        for each in listed
    ]
    return Thread(name=name, main=name == "MainThread" or told.get("os_thread_id") == pid, frames=tuple(calls))
