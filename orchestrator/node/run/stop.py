"""The verb ``stop``: end a run on this host, its supervisor's way, and then whatever bears its mark.

Processes with a mark and no living supervisor are leftovers: supervisor and torchrun were killed at once.
"""

from __future__ import annotations

import os
import signal
import time

from ...protocol import frames
from ...protocol.run import AskStop, Holder, Stop, Stopped
from ..host import lock, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..host.processes import Mark

LEFTOVER_GRACE = 2.0
POLL = 0.05
# What is left so long after SIGKILL cannot be ended, in seconds.
UNENDED_AFTER = 3.0


def answer(request: Stop, out: int) -> None:
    """End the run and whatever it left over; answer when nothing of it is left."""
    found = end(request.run_id, request.grace)
    refused = found.refused
    if refused is not None and refused.foreign and os.getuid() == 0:
        # Root may end anybody's run. Whether it is gone the kernel says, not the one who held the lock.
        stop_supervised(request.run_id, request.grace, even_others=True)
        now = lock.holder()
        if now is None or now.owner != refused.owner:
            found = found.replace(refused=None, ended=(*found.ended, "a run of %s" % refused.owner))
    frames.send(out, found)


def end(run_id: str | None, grace: float) -> Stopped:
    """Do it; the answer of the verb."""
    said = stop_supervised(run_id, grace) or Holder()
    refused = said if said.foreign or said.error is not None else None
    ended = {said.run_id} if said.gone and said.run_id is not None else set()
    killed = 0
    number: int = signal.SIGTERM
    began = time.monotonic()
    deadline = began + min(grace, LEFTOVER_GRACE)
    given_up = deadline + UNENDED_AFTER
    left = leftovers(run_id)
    while left and time.monotonic() < given_up:
        ended.update(run for run, _ in left.values())
        killed = max(killed, len(left))
        processes.send(number, left)
        while left and time.monotonic() < deadline:
            time.sleep(POLL)
            left = leftovers(run_id)
        number, deadline = signal.SIGKILL, time.monotonic() + 1.0
    alive = (*said.alive, *processes.described(left))
    return Stopped(ended=tuple(sorted(ended)), refused=refused, killed=killed, alive=alive)


def stop_supervised(run_id: str | None, grace: float, even_others: bool = False) -> Holder | None:
    """Ask the supervisor, if there is one; it answers when no process of its run is left."""
    question = AskStop(run_id=run_id, grace=grace)
    return lock.ask(question, timeout=grace + 15.0, even_others=even_others)


def leftovers(run_id: str | None = None) -> dict[int, Mark]:
    """The processes with a run's mark, or any run's, and no living supervisor: ``{pid: (run id, attempt)}``."""
    marked = processes.marks()
    if not marked:
        return {}
    held = lock.holder() or Holder()
    if held.error is not None:
        # A supervisor too busy to answer is a living one.
        return {}
    return {
        pid: mark
        for pid, mark in marked.items()
        if run_id in (None, mark[0]) and mark != (held.run_id, held.attempt)
    }
