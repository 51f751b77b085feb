"""The verb ``runs``: list the living runs, leftovers and ended runs of this host."""

from __future__ import annotations

import os
import time

from ...protocol import frames
from ...protocol.events import Finished, WorkerFound
from ...protocol.run import Holder, ListRuns, RunHere, RunsHere
from ..host import lock, paths, processes
from . import failure, journal, stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...protocol.events import Event


def answer(request: ListRuns, out: int) -> None:
    """List the runs of this host; without ``ended``, only those that have a process."""
    left: dict[str, int] = {}
    for run_id, _ in stop.leftovers(request.run_id).values():
        left[run_id] = left.get(run_id, 0) + 1
    holder = lock.holder() or Holder()
    living = set(left) | {holder.run_id}
    if holder.error is not None:
        # A supervisor that is too busy to answer is alive; the marks of its processes tell its run.
        living.update(run_id for run_id, _ in processes.marks().values())
    wanted = paths.run_ids() if request.ended else sorted(run for run in living if run)
    found = [
        describe(run_id, holder, left.get(run_id, 0))
        for run_id in wanted
        if request.run_id in (None, run_id) and (paths.attempts(run_id) or run_id in living)
    ]
    frames.send(out, RunsHere(runs=tuple(found), time=time.time()))


def describe(run_id: str, holder: Holder, left: int) -> RunHere:
    """Describe a run by its newest attempt on this host. ``left``: number of its leftovers."""
    attempt = (paths.attempts(run_id) or [1])[-1]
    folder = paths.attempt_dir(run_id, attempt)
    known = paths.kept(run_id, attempt)
    events = journal.read(folder)
    ended = next((event for event in reversed(events) if isinstance(event, Finished)), None)
    found = RunHere(
        run_id=run_id,
        attempt=attempt,
        state=state(run_id, attempt, holder, left, ended),
        leftovers=left,
        last_line=last_line(folder, events),
        began=events[0].time if events else None,
        ended=None if ended is None else ended.time,
        exit_code=None if ended is None else ended.exit_code,
    )
    if known is None:
        return found
    return found.replace(
        workload=known.workload,
        owner=known.owner,
        node=known.node,
        nodes=known.nodes,
        node_rank=known.node_rank,
        first_rank=known.first_rank,
        nproc=known.nproc,
        min_nodes=known.min_nodes,
    )


def state(run_id: str, attempt: int, holder: Holder, left: int, ended: Finished | None) -> str:
    """Return the state of a run on this host, one of ``protocol.run.STATES``."""
    running = holder.run_id == run_id
    if left and not running:
        return "left over"
    if ended is not None:
        return "ok" if ended.exit_code == 0 else "stopped" if ended.stopped else "failed"
    if holder.error is not None:
        return "not answering"
    if running:
        return "stopping" if holder.stopping else "running"
    return "rebooted" if paths.rebooted(run_id, attempt) else "lost"


def last_line(folder: str, events: Sequence[Event]) -> str | None:
    """Return the last stdout line of the first local rank that has one, up to 500 characters, or None."""
    workers = [event for event in events if isinstance(event, WorkerFound)]
    # The newest start of an elastic run comes first.
    for event in sorted(workers, key=lambda each: (-each.restart, each.local_rank)):
        text = failure.tail(os.path.join(folder, event.logs, "stdout.log")).rstrip()
        if text:
            return text.splitlines()[-1][-500:]
    return None
