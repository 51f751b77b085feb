"""Submit, watch and cancel batch jobs."""

from __future__ import annotations

import threading
import time

from orchestrator.core.run.job import remedy_for
from orchestrator.errors import ConnectionLost, PreflightError, UsageError
from orchestrator.protocol.slurm import (
    CancelJob,
    Cancelled,
    JobHere,
    JobsHere,
    ListJobs,
    Submit,
    Submitted,
)
from orchestrator.remote.node import Node

# Longest wait for Slurm, in seconds: its own programs have shorter limits.
ANSWER_LIMIT = 90.0
# How old Slurm's answer may be, in seconds: each question costs the cluster's controller time.
FRESH = 2.0
# Size limit of a list of jobs, as a multiple of other messages'.
SCALE = 8


def submit(login: Node, request: Submit) -> Submitted:
    """Submit a job. Raises PreflightError with Slurm's reason if it refuses the job."""
    try:
        return login.ask(request, Submitted.from_wire, ANSWER_LIMIT)
    except PreflightError as error:
        remedy = error.remedy or remedy_for(error.message)
        raise PreflightError(error.message, remedy=remedy, host=error.host) from None


def list_jobs(login: Node, workdir: str, run_id: str | None, *, ended: bool) -> JobsHere:
    """Return the jobs in a workdir. Raises OrchError."""
    return login.ask(
        ListJobs(workdir=workdir, run_id=run_id, ended=ended), JobsHere.from_wire, ANSWER_LIMIT, SCALE
    )


def cancel(login: Node, workdir: str, run_id: str, *, kill: bool) -> bool:
    """Keep a job from starting again and, with ``kill``, end it. Return whether Slurm was told to."""
    return login.ask(CancelJob(workdir=workdir, run_id=run_id, kill=kill), Cancelled.from_wire, ANSWER_LIMIT).told


class Watch:
    """One job as Slurm and its folder show it. Any thread may look; answers are shared for ``FRESH`` seconds."""

    def __init__(self, login: Node, workdir: str, run_id: str) -> None:
        self.login = login
        self.workdir = workdir
        self.run_id = run_id
        self._looking = threading.Lock()
        self._seen: JobHere | None = None
        self._seen_at = 0.0

    def job(self) -> JobHere:
        """Return the job as it is now. Raises UsageError if it is gone, and OrchError if nobody answers."""
        with self._looking:
            if self._seen is None or time.monotonic() - self._seen_at > FRESH:
                self._seen = self._look()
                self._seen_at = time.monotonic()
            return self._seen

    def _look(self) -> JobHere:
        try:
            found = list_jobs(self.login, self.workdir, self.run_id, ended=True).jobs
        except ConnectionLost:
            self.login.connection.reopen(self.login.connection.settings.connect_timeout)
            found = list_jobs(self.login, self.workdir, self.run_id, ended=True).jobs
        if not found:
            raise UsageError(f"the folder of run {self.run_id} in {self.workdir} is gone", host=self.login.name)
        return found[0]

    def cancel(self, *, kill: bool) -> bool:
        """Keep the job from starting again and, with ``kill``, end it. Raises OrchError."""
        return cancel(self.login, self.workdir, self.run_id, kill=kill)
