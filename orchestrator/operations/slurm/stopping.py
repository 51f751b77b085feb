"""End jobs: by their supervisors, so that ranks can write a last snapshot, and by Slurm where those do not."""

from __future__ import annotations

import time

from orchestrator.core.run.job import HOLDING, WAITING
from orchestrator.errors import OrchError, PreflightError
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.slurm.errands import SETTLING
from orchestrator.operations.slurm.listing import ask_jobs
from orchestrator.operations.stopping import HostStopped
from orchestrator.protocol.slurm import JobHere
from orchestrator.remote.fanout import on_all
from orchestrator.remote.node import Node
from orchestrator.remote.slurm.client import job_nodes
from orchestrator.remote.slurm.queue import FRESH, Watch

# How long Slurm may take to end a job, in seconds: its SIGKILL comes after KillWait, usually 30.
CANCELLING = 60.0


def stop_jobs(opened: OpenCluster, run_id: str | None, grace: float) -> list[HostStopped | OrchError]:
    """End the job of ``run_id``, or every job of the workdir if it is None. Ranks have ``grace`` seconds.

    Return the result of each node. Raises HostErrors, OrchError if the login node does not answer.
    """
    login, here = ask_jobs(opened, run_id, ended=False)
    found: list[HostStopped | OrchError] = []
    for job in here.jobs:
        found += _stop(login, opened.hosts[0].workdir, job, grace)
    return found


def _stop(login: Node, workdir: str, job: JobHere, grace: float) -> list[HostStopped | OrchError]:
    run_id, watch = job.record.run_id, Watch(login, workdir, job.record.run_id)
    watch.cancel(kill=job.state in WAITING)
    if job.state in HOLDING:
        # Supervisors that do not answer are ended below.
        on_all(job_nodes(login, job), lambda node: node.stop(run_id, grace))
        if _left(watch, SETTLING):
            watch.cancel(kill=True)
    state = _left(watch, CANCELLING)
    if state:
        what = f"job {job.record.job_id} is still {state}"
        return [PreflightError(what, remedy=f"scancel --signal=KILL {job.record.job_id}", host=login.name)]
    return [HostStopped(name, (run_id,), 0) for name in job.names or (login.name,)]


def _left(watch: Watch, seconds: float) -> str | None:
    """Return the job's state if it has not ended after ``seconds``; else None."""
    until = time.monotonic() + seconds
    while (state := watch.job().state) in HOLDING | WAITING:
        if time.monotonic() > until:
            return state
        time.sleep(FRESH / 2)
    return None
