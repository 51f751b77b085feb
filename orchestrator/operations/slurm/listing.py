"""The jobs of a workdir, as runs and as the nodes that have a part in one."""

from __future__ import annotations

from orchestrator.core.run.job import WAITING, waiting_for
from orchestrator.core.run.listing import ListedRun, NodeRun, whole_runs
from orchestrator.errors import UsageError
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.run.members import Member
from orchestrator.protocol.slurm import JobHere, JobsHere
from orchestrator.remote.node import Node
from orchestrator.remote.slurm.client import job_nodes
from orchestrator.remote.slurm.queue import Watch, list_jobs
from orchestrator.ui.display import Display


def ask_jobs(opened: OpenCluster, run_id: str | None, *, ended: bool) -> tuple[Node, JobsHere]:
    """Connect to the login node, and return it with the jobs in the workdir. Raises HostErrors, OrchError."""
    (host,), (login,) = opened.hosts, opened.connect()
    return login, list_jobs(login, host.workdir, run_id, ended=ended)


def listed_jobs(opened: OpenCluster, *, ended: bool) -> tuple[ListedRun, ...]:
    """Return the jobs as runs, the newest last."""
    _, here = ask_jobs(opened, None, ended=ended)
    return tuple(_listed(job, here.time) for job in here.jobs)


def parts(job: JobHere, now: float) -> list[NodeRun]:
    """Return the parts of a job's newest attempt. ``now``: the login node's clock."""
    return [
        NodeRun.from_answer(part, now, job.names[part.node_rank or 0])
        for part in job.parts
        if part.attempt == job.attempt
    ]


def _listed(job: JobHere, now: float) -> ListedRun:
    runs = whole_runs(parts(job, now))
    if runs and job.state not in WAITING:
        return runs[0]
    waiting = job.state in WAITING
    return ListedRun(
        run_id=job.record.run_id,
        attempt=max(job.attempt, 1),
        state="waiting" if waiting else job.state.lower() or "ended",
        workload=job.record.workload,
        owner=job.record.owner,
        nodes=() if waiting else job.names,
        missing=(),
        ranks=0,
        leftovers=0,
        age=now - job.record.submitted,
        duration=None,
        last_line=waiting_for(job.record.job_id or "?", job.reason) if waiting else None,
    )


def find_job(opened: OpenCluster, run_id: str | None, display: Display) -> tuple[Watch, JobHere, float]:
    """Return a run's job, with ``run_id`` None the only active one, and the login node's clock.

    Raises UsageError if there is no such job, or several are active.
    """
    with display.stage("looking for the run"):
        login, here = ask_jobs(opened, run_id, ended=run_id is not None)
    if not here.jobs:
        what = f"{opened.hosts[0].workdir} there has no run {run_id}" if run_id else "no job is active"
        raise UsageError(what, remedy="list the runs: orch ps --all")
    if len(here.jobs) > 1:
        ids = ", ".join(job.record.run_id for job in here.jobs)
        raise UsageError(f"there are several runs: {ids}", remedy="name one of them")
    (job,) = here.jobs
    return Watch(login, opened.hosts[0].workdir, job.record.run_id), job, here.time


def members_of(login: Node, job: JobHere, now: float) -> list[Member]:
    """Return the nodes of a job's newest attempt that have begun it, in node_rank order. Raises OrchError."""
    nodes = job_nodes(login, job)
    runs = sorted(parts(job, now), key=lambda run: run.node_rank or 0)
    return [Member(nodes[run.node_rank or 0], run) for run in runs]


def job_members(opened: OpenCluster, run_id: str | None, display: Display) -> list[Member]:
    """Return the nodes of a run's newest attempt, in node_rank order. Raises UsageError if none has begun."""
    watch, job, now = find_job(opened, run_id, display)
    members = members_of(watch.login, job, now)
    if not members:
        why = waiting_for(job.record.job_id or "?", job.reason) if job.state in WAITING else "no node has begun"
        raise UsageError(f"run {job.record.run_id} has no output yet: {why}")
    return members
