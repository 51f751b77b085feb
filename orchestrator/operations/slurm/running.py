"""Runs that are jobs of Slurm, seen to their end by this process: submitted here, or taken over."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.inventory.sections.scheduler import Slurm
from orchestrator.core.run.job import HOLDING
from orchestrator.core.run.machine import following, starting
from orchestrator.core.run.policy import Policy, grace_of
from orchestrator.core.run.result import nothing_yet
from orchestrator.engine.engine import Engine
from orchestrator.local.run_folder import RunFolder
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.history.writing import asking_git, keep_record
from orchestrator.operations.run.aftermath import NoErrands
from orchestrator.operations.run.members import record_attach
from orchestrator.operations.run.options import RunOptions
from orchestrator.operations.run.recording import Hearer, Recording
from orchestrator.operations.run.running import TAIL, Live, environments
from orchestrator.operations.slurm.errands import JobErrands, begun
from orchestrator.operations.slurm.listing import find_job, members_of
from orchestrator.operations.slurm.preparing import deliver, job_request, prepare_job
from orchestrator.protocol.run import Follow
from orchestrator.protocol.slurm import JobHere
from orchestrator.remote.slurm.queue import Watch, submit
from orchestrator.ui.display import Display
from orchestrator.ui.plan import show_settings


@dataclass(frozen=True)
class JobLive(Live):
    """A run that is a job."""

    errands: JobErrands

    def close(self) -> None:
        """If the run is over and did not succeed, see that its job ends as well. Close the folder's files."""
        last = self.engine.last
        if last is not None and last.exit_code:
            self.errands.conclude()
        super().close()


def launch_job(opened: OpenCluster, slurm: Slurm, options: RunOptions, display: Display, heard: Hearer) -> Live:
    """Submit a run as a job and wait for its nodes. The engine of the result follows it. Raises OrchError."""
    with asking_git(options.source.root) as git:
        prepared = prepare_job(opened, slurm, options, display)
        made, login = prepared.plan, prepared.login
        interpreters = environments({login.name: prepared.facts})
        show_settings(display, made, interpreters)
        deliver(opened, prepared, options, display)
    folder = RunFolder.create(options.runs_dir, made)
    keep_record(folder, opened, options, made, prepared.trees[0], git, interpreters, display)
    with display.stage("submitting") as stage:
        job_id = submit(login, job_request(opened, slurm, prepared, options)).job_id
        stage.result = f"job {job_id}"
    watch = Watch(login, slurm.workdir, made.run_id)
    grace = grace_of(opened.inventory.grace, options.grace)
    recording = Recording(folder, made.spec.workload.name, display, heard)
    if options.detach:
        engine = Engine(following(Policy(records=False), (), 1, nothing_yet()), {}, NoErrands(), recording)
        engine.leave()
        return Live(made.run_id, engine, recording, folder, grace, len(made.nodes))
    errands = JobErrands(watch, opened.inventory.outputs, folder, options.node_timeout, display)
    job = _with_nodes(errands, made.run_id, display)
    policy = Policy(
        node_timeout=options.node_timeout,
        grace=grace,
        limit=options.limit,
        collect_every=options.collect_every,
        max_restarts=options.max_restarts,
        on_hang=options.on_hang,
    )
    request = Follow(run_id=made.run_id, attempt=1)
    engine = Engine(
        starting(policy, job.names, time.time()), errands.clients(job, request, {}), errands, recording
    )
    recording.left = engine.leave
    return JobLive(made.run_id, engine, recording, folder, grace, len(job.names), errands)


def _with_nodes(errands: JobErrands, run_id: str, display: Display) -> JobHere:
    """Return the job once it has nodes; if the user interrupts the wait, cancel it."""
    try:
        return begun(errands, run_id)
    except KeyboardInterrupt:
        errands.watch.cancel(kill=True)
        display.note(f"cancelled the job of run {run_id}")
        raise


def attach_job(
    opened: OpenCluster,
    run_id: str | None,
    runs_dir: Path,
    node_timeout: float,
    display: Display,
    from_start: bool,
    on_hang: str,
    heard: Hearer,
) -> Live:
    """Take over a run that is a job, waiting for its nodes if it has none yet. Raises OrchError."""
    watch, job, now = find_job(opened, run_id, display)
    run_id = job.record.run_id
    folder = RunFolder.open(runs_dir, run_id)
    if not folder.writing:
        display.note(f"another orch process records this run in {folder.path}; this one only shows it")
    errands = JobErrands(watch, opened.inventory.outputs, folder, node_timeout, display)
    if not job.attempt:
        job = begun(errands, run_id)
    if job.state in HOLDING:
        errands.await_parts(job.attempt)
        job = watch.job()
    members = members_of(watch.login, job, now)
    offsets = record_attach(folder, members)
    request = Follow(run_id=run_id, attempt=job.attempt, tail=None if from_start else TAIL)
    clients = errands.clients(job, request, offsets)
    recording = Recording(folder, job.record.workload, display, heard)
    recording.begun(job.attempt, job.names)
    recording.shown.recall(folder.events)
    grace = grace_of(opened.inventory.grace)
    policy = Policy(
        node_timeout=node_timeout,
        grace=grace,
        records=folder.writing,
        max_restarts=job.record.restarts,
        on_hang=on_hang,
    )
    engine = Engine(following(policy, clients, job.attempt, folder.result()), clients, errands, recording)
    recording.left = engine.leave
    return JobLive(run_id, engine, recording, folder, grace, len(job.names), errands)
