"""The verb ``stop``: end a run on this host, through its supervisor, and then its leftovers.

Leftovers are processes with a run's mark and no living supervisor; they remain where supervisor and torchrun were
killed together.
"""

from __future__ import annotations

import os
import signal
import time

from ...protocol import frames
from ...protocol.events import Finished
from ...protocol.run import AskStop, Holder, Stop, Stopped
from ..container import removal
from ..host import lock, paths, processes
from . import journal, presence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..host.processes import Mark

# Longest time that leftovers have to end after SIGTERM, in seconds.
LEFTOVER_GRACE = 2.0
# Interval between two looks for leftovers, in seconds.
POLL = 0.05
# A process that is left so many seconds after SIGKILL cannot be ended.
UNENDED_AFTER = 3.0
# How much longer than its grace the stop of a batch job's part may take, and the interval of looks, in seconds.
ELSEWHERE_MARGIN, ELSEWHERE_POLL = 10.0, 0.2


def answer(request: Stop, out: int) -> None:
    """End the run and its leftovers; answer when none of its processes is left, or the rest cannot be ended."""
    found = end(request.run_id, request.grace)
    refused = found.refused
    if refused is not None and refused.foreign and os.getuid() == 0:
        # Root may end any user's run. The kernel tells whether it is gone; the holder's answer is not trusted.
        stop_supervised(request.run_id, request.grace, even_others=True)
        now = lock.holder()
        if now is None or now.owner != refused.owner:
            found = found.replace(refused=None, ended=(*found.ended, "a run of %s" % refused.owner))
    frames.send(out, found)


def end(run_id: str | None, grace: float) -> Stopped:
    """End a run, or every run of this user if ``run_id`` is None, and return the answer of the verb.

    ``grace``: how long the processes have to end, in seconds.
    """
    if paths.is_shared():
        return end_elsewhere(run_id, grace)
    said = stop_supervised(run_id, grace) or Holder()
    refused = said if said.foreign or said.error is not None else None
    ended = {said.run_id} if said.gone and said.run_id is not None else set()
    killed = 0
    number: int = signal.SIGTERM
    began = time.monotonic()
    deadline = began + min(grace, LEFTOVER_GRACE)
    give_up_at = deadline + UNENDED_AFTER
    left = leftovers(run_id)
    while left and time.monotonic() < give_up_at:
        ended.update(run for run, _ in left.values())
        killed = max(killed, len(left))
        processes.send(number, left)
        while left and time.monotonic() < deadline:
            time.sleep(POLL)
            left = leftovers(run_id)
        number, deadline = signal.SIGKILL, time.monotonic() + 1.0
    # The containers come first: what is removed with them counts as ended.
    kept = remove_containers(run_id, ended)
    alive = (*said.alive, *processes.described(left), *kept)
    return Stopped(ended=tuple(sorted(ended)), refused=refused, killed=killed, alive=alive)


def end_elsewhere(run_id: str | None, grace: float) -> Stopped:
    """End this node's part of a batch job, whose supervisor is on another machine; wait until it has ended."""
    ended: list[str] = []
    for each in paths.run_ids() if run_id is None else [run_id]:
        attempts = paths.attempts(each)
        folder = paths.attempt_dir(each, attempts[-1]) if attempts else ""
        if not attempts or is_over(folder):
            continue
        presence.ask_to_stop(folder, grace)
        deadline = time.monotonic() + grace + ELSEWHERE_MARGIN
        while not is_over(folder):
            if time.monotonic() > deadline:
                refused = Holder(run_id=each, error="the supervisor does not answer")
                return Stopped(ended=tuple(ended), refused=refused, killed=0, alive=())
            time.sleep(ELSEWHERE_POLL)
        ended.append(each)
    return Stopped(ended=tuple(ended), refused=None, killed=0, alive=())


def is_over(folder: str) -> bool:
    """Return whether an attempt of a batch job has ended, or its supervisor is gone."""
    return any(isinstance(event, Finished) for event in journal.read(folder)) or not presence.alive(folder)


def stop_supervised(run_id: str | None, grace: float, even_others: bool = False) -> Holder | None:
    """Ask the supervisor to end its run and wait until it has; None if there is no supervisor."""
    question = AskStop(run_id=run_id, grace=grace)
    return lock.ask(question, timeout=grace + 15.0, even_others=even_others)


def remove_containers(run_id: str | None, ended: set[str]) -> list[str]:
    """Remove the containers of attempts without a supervisor, of a run or of all; return what keeps the others.

    ``ended``: ids of runs that ended; those whose containers were removed are added.
    """
    kept = []
    held = lock.holder() or Holder()
    for each, attempt in removal.left(run_id):
        if held.error is not None or (each, attempt) == (held.run_id, held.attempt):
            continue
        reason = removal.remove(paths.attempt_dir(each, attempt))
        if reason is None:
            ended.add(each)
        else:
            kept.append(reason)
    return kept


def leftovers(run_id: str | None = None) -> dict[int, Mark]:
    """Return the leftovers of a run, or of all runs if ``run_id`` is None: ``{pid: (run id, attempt)}``."""
    marked = processes.marks()
    if not marked:
        return {}
    held = lock.holder() or Holder()
    if held.error is not None:
        # A supervisor that is too busy to answer is alive.
        return {}
    return {
        pid: mark
        for pid, mark in marked.items()
        if run_id in (None, mark[0]) and mark != (held.run_id, held.attempt)
    }
