"""The states of a Slurm job, and what they mean for a run."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.core.diagnosis.diagnosis import Diagnosis

# Slurm's states of a job that waits for nodes, and of one that has nodes (squeue(1), JOB STATE CODES).
WAITING = frozenset(("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"))
HOLDING = frozenset(
    ("CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
)
# Why a job waits, for reasons that do not speak for themselves.
REASONS: Mapping[str, str] = {
    "Resources": "enough nodes are not free yet",
    "Priority": "jobs with a higher priority come first",
    "Dependency": "a job that it depends on has not ended",
    "BeginTime": "its time to begin has not come; after a restart Slurm lets two minutes pass",
    "Licenses": "a license is not free",
    "Reservation": "its reservation has not begun",
    "JobHeldUser": "it is held: scontrol release {job} lets it go",
    "JobHeldAdmin": "an administrator holds it",
    "PartitionDown": "its partition is down",
    "PartitionNodeLimit": "its partition does not have or allow so many nodes",
    "PartitionTimeLimit": "its time limit exceeds the partition's",
    "ReqNodeNotAvail": "nodes that it needs are down or reserved",
    "AssociationJobLimit": "its account runs as many jobs as it may",
    "AssocGrpCPUMinutesLimit": "its account has used up its time",
}
# What ended a job, by Slurm's state: cause and remedy.
ENDS: Mapping[str, tuple[str, str]] = {
    "TIMEOUT": ("its time limit was reached", "raise time: in the hosts file, or go on with --resume {run}"),
    "DEADLINE": ("its deadline was reached", "start it earlier, or without --deadline"),
    "NODE_FAIL": ("a node failed", "--max-restarts 1 lets Slurm start the job again on other nodes"),
    "BOOT_FAIL": ("a node could not be booted", "start the run again, or leave that node out: --exclude=NODE"),
    "PREEMPTED": (
        "a job with a higher priority took its nodes",
        "--max-restarts N lets Slurm start the job again when nodes are free",
    ),
    "OUT_OF_MEMORY": (
        "it used more memory than Slurm gave it",
        "ask for more with --mem= in options:, or lower the batch size",
    ),
    "CANCELLED": ("the job was cancelled outside orch", "sacct -j {job} may tell by whom"),
}


def waiting_for(job_id: str, reason: str) -> str:
    """Return a line on why a job waits, from Slurm's reason."""
    word = reason.partition(",")[0]
    known = REASONS.get(word)
    if known is None and ("Limit" in word or word.startswith(("QOS", "Assoc"))):
        known = "a limit of its account or quality of service is reached"
    told = f" ({known.format(job=job_id)})" if known else ""
    return f"job {job_id} waits: {reason or 'no reason is known yet'}{told}"


def end_of_job(job_id: str, run_id: str, state: str, node: str, *, signalled: bool) -> Diagnosis | None:
    """Return why Slurm ended a job; None if it did not. ``node``: the node to name.

    ``signalled``: the supervisors got SIGTERM, as Slurm sends it before the time limit and at preemption; then the
    job may have ended by itself, and ``state`` says nothing about the limit.
    """
    known = ENDS.get(state.partition(" ")[0])
    if known is None and signalled:
        known = (
            "it signalled that the time limit is near, or that another job takes the nodes",
            "raise time: in the hosts file, or go on with --resume {run}",
        )
        state = "SIGTERM"
    if known is None:
        return None
    cause, remedy = known
    return Diagnosis(
        signature=f"slurm-{state.lower().replace('_', '-')}",
        node=node,
        rank=None,
        what=f"Slurm ended job {job_id} ({state})",
        cause=cause,
        remedy=remedy.format(run=run_id, job=job_id),
        show_log=False,
    )


def remedy_for(said: str) -> str:
    """Return what to do about a refusal of Slurm."""
    words = said.lower()
    if "cannot start" in words:
        return "put sbatch on the PATH of logins without a terminal there, for example in ~/.bashrc"
    for word, key, command in (
        ("partition", "partition", "sinfo -s"),
        ("account", "account", "sacctmgr show assoc user=$USER"),
        ("time", "time", "sinfo -o '%P %l'"),
        ("node", "nodes", "sinfo -s"),
    ):
        if word in words:
            return f"correct scheduler.slurm.{key}; on the login node, {command} shows what there is"
    return "correct scheduler.slurm in the hosts file"
