"""The verb ``stop``: end a run on this host, its supervisor's way, and then whatever bears its mark.

Processes with a mark and no living supervisor are leftovers: supervisor and torchrun were killed at once.
"""

import os
import signal
import time

from . import lock, processes, wire

LEFTOVER_GRACE = 2.0
POLL = 0.05
# What is left so long after SIGKILL cannot be ended, in seconds.
UNENDED_AFTER = 3.0


def answer(request, out):
    """End run ``run_id`` (null: whatever runs here) within ``grace`` seconds; answers when nothing of it is left.

    Answer: ``{"ended": [run ids], "refused": null or what the supervisor said, "killed": leftovers ended, "alive":
    [what could not be ended, in words]}``.
    """
    found = end(request["run_id"], request["grace"])
    refused = found["refused"]
    if refused is not None and refused.get("foreign") and os.getuid() == 0:
        # Root may end anybody's run. Whether it is gone the kernel says, not the one who held the lock.
        stop_supervised(request["run_id"], request["grace"], even_others=True)
        now = lock.holder()
        if now is None or now.get("owner") != refused["owner"]:
            found["refused"] = None
            found["ended"].append("a run of %s" % refused["owner"])
    wire.write_all(out, wire.json_frame(found))


def end(run_id, grace):
    """Do it; the answer of the verb."""
    said = stop_supervised(run_id, grace) or {}
    refused = said if "foreign" in said or "error" in said else None
    ended = {said["run_id"]} if said.get("gone") else set()
    killed = 0
    number = signal.SIGTERM
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
    alive = list(said.get("alive", [])) + processes.described(left)
    return {"ended": sorted(ended), "refused": refused, "killed": killed, "alive": alive}


def stop_supervised(run_id, grace, even_others=False):
    """Ask the supervisor, if there is one; it answers when no process of its run is left."""
    question = {"op": "stop", "run_id": run_id, "grace": grace}
    return lock.ask(question, timeout=grace + 15.0, even_others=even_others)


def leftovers(run_id=None):
    """The processes with a run's mark, or any run's, and no living supervisor: ``{pid: (run id, attempt)}``."""
    marked = processes.marks()
    if not marked:
        return {}
    held = lock.holder() or {}
    if "error" in held:
        # A supervisor too busy to answer is a living one.
        return {}
    return {
        pid: mark
        for pid, mark in marked.items()
        if run_id in (None, mark[0]) and mark != (held.get("run_id"), held.get("attempt"))
    }
