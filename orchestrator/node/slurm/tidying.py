"""What pruning must keep for jobs, and the removal of jobs that have ended."""

from __future__ import annotations

import os
import shutil

from ...protocol.shapes import MOST_BYTES, MOST_VALUES, decoded
from ...protocol.slurm import Starts
from ..host import paths
from . import jobs

# Size limit of the file of requests, as a multiple of a message's.
SCALE = 64


def requests(folder: str) -> Starts:
    """Return what the job in ``folder`` starts; raises OSError, Misshapen."""
    with open(os.path.join(folder, jobs.STARTS), "rb") as file:
        return Starts.from_wire(decoded(file.read(), SCALE * MOST_BYTES, SCALE * MOST_VALUES), jobs.STARTS)


def in_use(workdir: str) -> tuple[set[str], set[str]]:
    """Return the names of trees and environments that jobs use or will use, and the ids of ended jobs' runs.

    Raises Refused if Slurm does not answer: then no job may count as ended.
    """
    try:
        names = os.listdir(jobs.jobs_dir(workdir))
    except OSError:
        return set(), set()
    records = {name: jobs.kept(jobs.job_dir(workdir, name)) for name in names if paths.RUN_ID.match(name)}
    queue = jobs.states([record.job_id for record in records.values() if record and record.job_id])
    used: set[str] = set()
    ended = set()
    for name, record in records.items():
        # A job without a record is being submitted.
        if record is not None and queue.get(record.job_id or "", ("", ""))[0] not in jobs.ACTIVE:
            ended.add(name)
            continue
        try:
            known = requests(jobs.job_dir(workdir, name)).starts[:1]
        except (OSError, ValueError):
            continue
        for start in known:
            used.update([start.tree, *start.overlays])
            used.update(part for word in start.argv[:1] for part in word.split("/"))
    return used, ended


def forget(workdir: str, run_id: str) -> None:
    """Remove the folder of an ended job, and its nodes' working folders and logs."""
    base = os.path.join(os.path.expanduser(workdir), "runs")
    for name in os.listdir(base) if os.path.isdir(base) else []:
        if name.startswith("node") and name[4:].isdigit():
            for path in (os.path.join(base, name, run_id), os.path.join(base, name, run_id + paths.LOGS)):
                shutil.rmtree(path, ignore_errors=True)
    shutil.rmtree(jobs.job_dir(workdir, run_id), ignore_errors=True)
