"""The verb ``runs``: what runs on this host, what ran, and what is left over.

Request: ``{"run_id": id or null, "ended": bool}``; without ``ended`` only what has a process is named.
"""

import os
import time

from . import failure, journal, lock, paths, processes, sweep, wire


def answer(request, out):
    """Answer ``{"runs": [...], "time": now}``."""
    left = {}
    for run_id, _ in sweep.leftovers(request["run_id"]).values():
        left[run_id] = left.get(run_id, 0) + 1
    holder = lock.holder() or {}
    living = set(left) | {holder.get("run_id")}
    if "error" in holder:
        # A supervisor too busy to answer is a living one; whose it is, its processes tell.
        living.update(run_id for run_id, _ in processes.marks().values())
    wanted = paths.run_ids() if request["ended"] else sorted(run for run in living if run)
    found = [
        describe(run_id, holder, left.get(run_id, 0))
        for run_id in wanted
        if request["run_id"] in (None, run_id) and (paths.attempts(run_id) or run_id in living)
    ]
    wire.write_all(out, wire.json_frame({"runs": found, "time": time.time()}))


def describe(run_id, holder, left):
    """One run, as its newest attempt here has it."""
    attempt = (paths.attempts(run_id) or [1])[-1]
    folder = paths.attempt_dir(run_id, attempt)
    asked = paths.asked(run_id, attempt) or {}
    events = journal.read(folder)
    keys = ("workload", "owner", "node", "nodes", "node_rank", "first_rank", "nproc", "min_nodes")
    facts = {key: asked.get(key) for key in keys}
    facts.update(run_id=run_id, attempt=attempt, leftovers=left, last_line=last_line(folder, events))
    facts.update(began=events[0]["time"] if events else None, ended=None, exit_code=None)
    running = holder.get("run_id") == run_id
    facts["state"] = "stopping" if running and holder.get("stopping") else "running" if running else "lost"
    if facts["state"] == "lost" and paths.rebooted(run_id, attempt):
        facts["state"] = "rebooted"
    for event in events:
        if event["event"] == "finished":
            ok = event["exit_code"] == 0
            facts["state"] = "ok" if ok else "stopped" if event["stopped"] else "failed"
            facts["ended"], facts["exit_code"] = event["time"], event["exit_code"]
    if "error" in holder and facts["ended"] is None:
        facts["state"] = "not answering"
    if left and not running:
        facts["state"] = "left over"
    return facts


def last_line(folder, events):
    """The last line that a rank of this host printed, or None."""
    workers = [event for event in events if event["event"] == "worker"]
    # An elastic run's newest start first.
    for event in sorted(workers, key=lambda each: (-each.get("restart", 0), each["local_rank"])):
        text = failure.tail(os.path.join(folder, event["logs"], "stdout.log")).rstrip()
        if text:
            return text.splitlines()[-1][-500:]
    return None
