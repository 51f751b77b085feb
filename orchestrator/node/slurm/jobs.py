"""The verbs of the login node: ``submit``, ``jobs`` and ``cancel``."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import sys
import time

from ...protocol import frames
from ...protocol.events import Stopping
from ...protocol.refusal import Refused
from ...protocol.run import Holder
from ...protocol.shapes import Misshapen, decoded
from ...protocol.slurm import Cancelled, JobChecked, JobHere, JobRecord, JobsHere, Submitted
from ..host import atomic, bounded, paths
from ..run import presence, runs
from ..run.journal import read

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...protocol.run import RunHere
    from ...protocol.slurm import CancelJob, CheckJob, ListJobs, Submit

RECORD, STARTS, PROGRAM = "job.json", "starts.json", "node.pyz"
# Files that tell the batch script what to do at the end of an attempt: end, or start again.
STOPPED, FAILED, ENDED, NODES = "stopped", "failed", "ended", "nodes"
# Time limits of Slurm's programs, in seconds.
ASK_LIMIT, SUBMIT_LIMIT = 20.0, 60.0
# States in which a job has or waits for nodes.
ACTIVE = (
    "PENDING",
    "CONFIGURING",
    "RUNNING",
    "COMPLETING",
    "SUSPENDED",
    "STOPPED",
    "SIGNALING",
    "STAGE_OUT",
    "RESIZING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "SPECIAL_EXIT",
    "RESV_DEL_HOLD",
)
# An attempt starts again only if it failed by itself or lost a node, was not stopped, and restarts are left. If
# Slurm notices a lost node first, it starts the job again by itself, and ends this script without a word.
SCRIPT = """\
#!/bin/sh
folder=%(folder)s
attempt=$((${SLURM_RESTART_COUNT:-0} + 1))
[ "$attempt" -le %(attempts)d ] || exit 1
ORCH_JOB_NODES=$(scontrol show hostnames "$SLURM_JOB_NODELIST") || exit 1
export ORCH_JOB_NODES
printf '%%s\\n' "$ORCH_JOB_NODES" > "$folder/.nodes" && mv "$folder/.nodes" "$folder/nodes.$attempt"
# From Slurm 22.05 on, srun no longer takes this from the job.
[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"
srun --nodes=%(nodes)d --ntasks=%(nodes)d --ntasks-per-node=1 --kill-on-bad-exit=0 --wait=0 \\
    python3 -I -S "$folder/node.pyz" task "$folder"
code=$?
again=
[ ! -e "$folder/failed.$attempt" ] || again=1
rank=0
while [ "$code" != 0 ] && [ "$rank" -lt %(nodes)d ]; do
    [ -e "$folder/ended.$attempt.$rank" ] || again=1
    rank=$((rank + 1))
done
if [ -n "$again" ] && [ ! -e "$folder/stopped" ] && [ "$attempt" -lt %(attempts)d ]; then
    scontrol requeue "$SLURM_JOB_ID"
else
    rm -f "$folder/starts.json"
fi
exit $code
"""


def jobs_dir(workdir: str) -> str:
    """Return the folder of the jobs' folders."""
    return os.path.join(paths.own_dir(workdir), "slurm")


def job_dir(workdir: str, run_id: str) -> str:
    """Return the folder of a job; raises Refused if ``run_id`` is not a valid run id."""
    if not paths.RUN_ID.match(run_id):
        raise Refused("not a run id: %r" % run_id, "no-run")
    return os.path.join(os.path.abspath(jobs_dir(workdir)), run_id)


def answer_submit(request: Submit, out: int) -> None:
    """Make the job's folder and submit the job. Raises Refused with Slurm's reason if Slurm refuses it."""
    folder = job_dir(request.workdir, request.record.run_id)
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    paths.private(folder)
    try:
        # The home folder, where the running copy is, need not be on a disk that compute nodes share.
        shutil.copyfile(sys.argv[0], os.path.join(folder, PROGRAM))
        with atomic.written_bytes(os.path.join(folder, STARTS)) as file:
            file.write(json.dumps(request.starts.to_wire()).encode("ascii"))
        job_id = submitted(request, folder)
        keep(folder, request.record.replace(job_id=job_id))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    frames.send(out, Submitted(job_id=job_id, folder=folder))


def answer_check(request: CheckJob, out: int) -> None:
    """Ask Slurm whether it would take a job with these options. Raises Refused with Slurm's reason."""
    try:
        version = bounded.run(["sbatch", "--version"], ASK_LIMIT)
        bounded.run(["sbatch", "--test-only", *request.options, "--wrap=true"], SUBMIT_LIMIT)
    except bounded.NoAnswer as error:
        raise refused("sbatch", error) from None
    frames.send(out, JobChecked(version=version.strip()))


def submitted(request: Submit, folder: str) -> str:
    """Submit the job and return its id; raises Refused."""
    nodes, attempts = request.record.nodes, request.record.restarts + 1
    script = os.path.join(folder, "job.sh")
    with open(script, "w") as file:
        file.write(SCRIPT % {"folder": shlex.quote(folder), "nodes": nodes, "attempts": attempts})
    argv = ["sbatch", "--parsable", *request.options, "--output", os.path.join(folder, "slurm-%j.out"), script]
    try:
        said = bounded.run(argv, SUBMIT_LIMIT)
    except bounded.NoAnswer as error:
        raise refused("sbatch", error) from None
    # With several clusters, the id is followed by ";" and the cluster's name.
    return said.strip().splitlines()[-1].partition(";")[0]


def refused(program: str, error: bounded.NoAnswer) -> Refused:
    """Return the refusal for a program of Slurm that failed, with the last line that it printed."""
    text = str(error)
    if text.startswith("cannot be started"):
        return Refused("cannot start %s%s" % (program, text[len("cannot be started") :]), "slurm")
    # sbatch: error: Batch job submission failed: Invalid account
    said = re.sub(r"^exit code \d+: |\b%s: |\berror: |\ballocation failure: " % program, "", text)
    return Refused("%s fails: %s" % (program, said), "slurm")


def keep(folder: str, record: JobRecord) -> None:
    """Write the record of a job."""
    with atomic.written(os.path.join(folder, RECORD)) as file:
        json.dump(record.to_wire(), file)


def kept(folder: str) -> JobRecord | None:
    """Return the record of the job in ``folder``, or None if there is none."""
    try:
        with open(os.path.join(folder, RECORD), "rb") as file:
            return JobRecord.from_wire(decoded(file.read()))
    except (OSError, Misshapen):
        return None


def answer_jobs(request: ListJobs, out: int) -> None:
    """List the jobs whose folders are in the workdir; without ``ended``, those that have or wait for nodes."""
    try:
        names = sorted(os.listdir(jobs_dir(request.workdir))) if request.run_id is None else [request.run_id]
    except OSError:
        names = []
    records = {}
    for name in names:
        folder = job_dir(request.workdir, name)
        record = kept(folder)
        if record is not None:
            records[folder] = record
    queue = states([record.job_id for record in records.values() if record.job_id])
    found = []
    for folder, record in records.items():
        state, reason = queue.get(record.job_id or "", ("", ""))
        if state not in ACTIVE:
            # Slurm may have ended the script before it could remove the file, which holds variables.
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, STARTS))
        if request.ended or state in ACTIVE:
            found.append(described(folder, record, state, reason))
    frames.send(out, JobsHere(jobs=tuple(found), time=time.time()))


def states(job_ids: list[str]) -> dict[str, tuple[str, str]]:
    """Return Slurm's state and reason of each job that Slurm still knows, by job id; raises Refused."""
    if not job_ids:
        return {}
    # For a single id that it does not know, squeue fails; of several, it leaves those out.
    argv = ["squeue", "--noheader", "--states=all", "--format=%i|%T|%r", "--jobs=" + ",".join(job_ids)]
    try:
        said = bounded.run(argv, ASK_LIMIT)
    except bounded.NoAnswer as error:
        if "Invalid job id" in str(error):
            return {}
        raise refused("squeue", error) from None
    rows = [line.split("|", 2) for line in said.splitlines()]
    return {row[0].strip(): (row[1].strip(), row[2].strip()) for row in rows if len(row) == 3}


def described(folder: str, record: JobRecord, state: str, reason: str) -> JobHere:
    """Describe a job by its newest attempt."""
    names = os.listdir(folder)
    attempts = [int(name[6:]) for name in names if name.startswith(NODES + ".") and name[6:].isdigit()]
    attempt = max(attempts, default=0)
    nodes: list[str] = []
    if attempt:
        with open(os.path.join(folder, "%s.%d" % (NODES, attempt))) as file:
            nodes = file.read().split()
    parts = [part(folder, record.run_id, rank) for rank in range(len(nodes))]
    return JobHere(
        record=record,
        folder=folder,
        state=state,
        reason="" if reason == "None" else reason,
        attempt=attempt,
        names=tuple(nodes),
        parts=tuple(each for each in parts if each is not None),
    )


def part(folder: str, run_id: str, rank: int) -> RunHere | None:
    """Describe what the node with this node_rank has kept of the run; None if nothing."""
    os.environ.update({paths.SHARED_STATE: folder, "ORCH_HOSTNAME": "node%d" % rank})
    attempts = paths.attempts(run_id)
    if not attempts:
        return None
    attempt = paths.attempt_dir(run_id, attempts[-1])
    stopping = any(isinstance(event, Stopping) for event in read(attempt))
    holder = Holder(run_id=run_id, attempt=attempts[-1], stopping=stopping)
    return runs.describe(run_id, holder if presence.alive(attempt) else Holder(), 0)


def answer_cancel(request: CancelJob, out: int) -> None:
    """Keep the job from starting again and, if asked, tell Slurm to end it. Raises Refused if Slurm fails."""
    folder = job_dir(request.workdir, request.run_id)
    record = kept(folder)
    if record is None:
        raise Refused("there is no run %s in %s" % (request.run_id, request.workdir), "no-run")
    with open(os.path.join(folder, STOPPED), "w"):
        pass
    told = False
    if request.kill and record.job_id is not None:
        try:
            bounded.run(["scancel", record.job_id], ASK_LIMIT)
            told = True
        except bounded.NoAnswer as error:
            if "Invalid job id" not in str(error):
                raise refused("scancel", error) from None
    frames.send(out, Cancelled(told=told))
