"""Batch jobs of Slurm: submit one, list them, cancel one; and what a job's folder keeps.

A job's folder is ``<workdir>/.orch/slurm/<run_id>`` on the shared disk. It is also the state folder of the job's
nodes, which are called ``node<node_rank>`` there, whichever machines they are.
"""

from __future__ import annotations

from .message import Message, of
from .run import RunHere, Start
from .shapes import flag, many, maybe, text, whole, word
from .terms import NAME, NODE_RANK, PATH, RUN_ID, TIME

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

JOB_ID = word(r"[0-9]{1,20}")
# A state or reason as Slurm writes it, such as PENDING or "Nodes required for job are DOWN".
SLURM_WORDS = text(1024)


class Place(Message):
    """Goes with a request about a node of a job. ``state``: the job's folder. ``hostname``: ``node<rank>``."""

    state: str = of(PATH)
    hostname: str = of(word(r"node[0-9]{1,6}"))


class JobRecord(Message):
    """``job.json``: what the folder of a job keeps about the run.

    ``run_id``, ``owner``, ``workload``: as in ``Start``. ``nodes``: number of nodes. ``restarts``: how often the
    job may start again. ``submitted``: when it was submitted, in seconds since the epoch.
    ``job_id``: Slurm's; None until the job is accepted.
    """

    run_id: str = of(RUN_ID)
    owner: str = of(text())
    workload: str = of(text())
    nodes: int = of(NODE_RANK)
    restarts: int = of(whole(0, 1_000_000))
    submitted: float = of(TIME)
    job_id: str | None = of(maybe(JOB_ID), default=None)


class Starts(Message):
    """``starts.json``, readable by its user only: the requests to start, in node_rank order, with gaps.

    ``master``, ``attempt``: the words in argv, files and variables that stand for the master's address and the
    number of the attempt, which are not known before the job runs.
    """

    starts: tuple[Start, ...] = of(many(Start.from_wire, 10_000))
    master: str = of(text(64))
    attempt: str = of(text(64))


class CheckJob(Message):
    """Sent to the login node: ask Slurm whether it would take a job; answered by ``JobChecked``.

    ``options``: of sbatch.
    """

    VERB: ClassVar[str] = "check-job"

    options: tuple[str, ...] = of(many(text(), 256))


class JobChecked(Message):
    """The answer to ``CheckJob``: Slurm would take the job. ``version``: Slurm's, as it names it."""

    version: str = of(text())


class Submit(Message):
    """Sent to the login node: make a job's folder and submit the job; answered by ``Submitted``.

    ``workdir``: where the folder is made. ``record``: what to keep, still without a job id.
    ``starts``: what the job starts. ``options``: of sbatch.
    """

    VERB: ClassVar[str] = "submit"

    workdir: str = of(PATH)
    record: JobRecord = of(JobRecord.from_wire)
    starts: Starts = of(Starts.from_wire)
    options: tuple[str, ...] = of(many(text(), 256))


class Submitted(Message):
    """The answer to ``Submit``. ``job_id``: Slurm's. ``folder``: the job's."""

    job_id: str = of(JOB_ID)
    folder: str = of(PATH)


class ListJobs(Message):
    """Sent to the login node: list the jobs in a workdir; answered by ``JobsHere``.

    ``run_id``: this run's job only; None for all. ``ended``: whether to list jobs that have ended, too.
    """

    VERB: ClassVar[str] = "jobs"

    workdir: str = of(PATH)
    run_id: str | None = of(maybe(RUN_ID))
    ended: bool = of(flag)


class JobHere(Message):
    """One job. ``folder``: the job's.

    ``state``, ``reason``: Slurm's words, such as ``PENDING`` and ``Resources``; empty if Slurm knows the job no
    more. ``attempt``: number of the newest attempt that got nodes; 0 before the first.
    ``names``: that attempt's nodes in node_rank order. ``parts``: what each node has kept of its newest attempt;
    nodes that have not begun are left out.
    """

    record: JobRecord = of(JobRecord.from_wire)
    folder: str = of(PATH)
    state: str = of(SLURM_WORDS)
    reason: str = of(SLURM_WORDS)
    attempt: int = of(whole(0, 1_000_000))
    names: tuple[str, ...] = of(many(NAME, 10_000))
    parts: tuple[RunHere, ...] = of(many(RunHere.from_wire, 10_000))


class JobsHere(Message):
    """The answer to ``ListJobs``. ``time``: the login node's clock, in seconds since the epoch."""

    jobs: tuple[JobHere, ...] = of(many(JobHere.from_wire, 10_000))
    time: float = of(TIME)


class CancelJob(Message):
    """Sent to the login node: let a job not start again, and with ``kill`` end it; answered by ``Cancelled``."""

    VERB: ClassVar[str] = "cancel"

    workdir: str = of(PATH)
    run_id: str = of(RUN_ID)
    kill: bool = of(flag)


class Cancelled(Message):
    """The answer to ``CancelJob``. ``told``: whether Slurm was told to end the job."""

    told: bool = of(flag)
