"""The errands of a run that is a batch job: wait for nodes, at first and after Slurm has started the job again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from orchestrator.core.diagnosis.diagnosis import Diagnosis
from orchestrator.core.inventory.hosts import Outputs
from orchestrator.core.run.actions import Prepare
from orchestrator.core.run.inputs import NotPrepared
from orchestrator.core.run.inputs import Prepared as Ready
from orchestrator.core.run.job import HOLDING, WAITING, end_of_job, waiting_for
from orchestrator.core.run.result import RunResult
from orchestrator.engine import engine
from orchestrator.engine.engine import NodeClient
from orchestrator.engine.signals import interrupted_in_pauses
from orchestrator.errors import OrchError, PreflightError
from orchestrator.local.run_folder import RunFolder
from orchestrator.operations.run.aftermath import CollectingErrands
from orchestrator.protocol.events import Event, NodeLost, Stopping
from orchestrator.protocol.run import Follow
from orchestrator.protocol.slurm import JobHere
from orchestrator.remote.slurm.client import JobClient, job_nodes
from orchestrator.remote.slurm.queue import FRESH, Watch
from orchestrator.ui.display import Display
from orchestrator.ui.run import RunDisplay

# How long a job whose ranks have ended may take to leave its nodes, in seconds.
SETTLING = 15.0


class JobErrands(CollectingErrands):
    """The errands of a run whose attempts Slurm starts. ``timeout``: as of ``JobClient``."""

    def __init__(
        self, watch: Watch, outputs: Outputs, folder: RunFolder, timeout: float, display: Display
    ) -> None:
        super().__init__({}, outputs, folder, display)
        self.watch = watch
        self.timeout = timeout
        self._waits = ""

    def await_nodes(self, attempt: int, pause: Callable[[float], None] = time.sleep) -> JobHere | None:
        """Wait until attempt number ``attempt`` has nodes, and show why it waits; None if it will have none.

        ``pause``: called with seconds between two looks.
        """
        while True:
            job = self.watch.job()
            if job.attempt >= attempt:
                return job
            if job.state in WAITING:
                # Slurm has not looked at a job without a reason yet.
                if job.reason:
                    self._say(waiting_for(job.record.job_id or "?", job.reason))
            elif job.state not in HOLDING:
                return None
            pause(FRESH)

    def await_parts(self, attempt: int) -> None:
        """Wait until every node has begun the attempt, or the job has lost its nodes. Raises OrchError."""
        while (job := self.watch.job()).state in HOLDING:
            if sum(part.attempt >= attempt for part in job.parts) >= len(job.names):
                return
            time.sleep(FRESH / 2)

    def _say(self, text: str) -> None:
        if text != self._waits:
            self._waits = text
            self.display.note(text)

    def clients(
        self, job: JobHere, request: Follow, offsets: Mapping[str, Mapping[str, int]]
    ) -> dict[str, NodeClient]:
        """Return a client for each node that the job has now. Raises OrchError."""
        nodes = job_nodes(self.watch.login, job)
        self.nodes.update({node.name: node for node in nodes})
        return {
            node.name: JobClient(
                node,
                request.replace(offsets=dict(offsets.get(node.name, {}))),
                self.timeout,
                self.watch,
                rank,
            )
            for rank, node in enumerate(nodes)
        }

    def settled(self) -> JobHere:
        """Return the job once it has left its nodes, or after ``SETTLING`` seconds as it is. Raises OrchError."""
        until = time.monotonic() + SETTLING
        while (job := self.watch.job()).state in HOLDING and time.monotonic() < until:
            time.sleep(FRESH / 2)
        return job

    def explain(self, result: RunResult, note: Callable[[Event], None]) -> Diagnosis | None:
        """Search the logs for evidence; where no rank is to blame, tell what Slurm did to the job."""
        found = super().explain(result, note)
        if result.ok or result.stopped_by_user or (found is not None and found.rank is not None):
            return found
        try:
            job = self.settled()
        except OrchError:
            return found
        node = found.node if found is not None else next(iter(result.nodes))
        if job.state in WAITING or job.attempt > result.attempt:
            if not result.failures:
                # Preempted: nothing failed, and the job starts again.
                reason = "Slurm took the job's nodes and queued it again"
                note(NodeLost(time=time.time(), node=node, reason=reason))
            return found
        signalled = any(isinstance(event, Stopping) and event.by == "SIGTERM" for event in self.folder.events)
        told = end_of_job(
            job.record.job_id or "?", job.record.run_id, job.state, node, signalled=signalled and found is None
        )
        if told is None:
            return found
        note(told.as_event(time.time()))
        return told

    def prepare(
        self, order: Prepare, result: RunResult, note: Callable[[Event], None]
    ) -> engine.Ready | NotPrepared:
        """Wait until Slurm has started the job again."""
        if order.found is not None:
            RunDisplay(self.display).diagnosis(order.found)
        try:
            job = self.await_nodes(order.attempt)
            if job is None:
                self.display.note("Slurm does not start the job again")
                return NotPrepared(order.attempt)
            request = Follow(run_id=job.record.run_id, attempt=order.attempt)
            return Ready(order.attempt, job.names), self.clients(job, request, {})
        except OrchError as error:
            self.display.error(error)
            return NotPrepared(order.attempt)

    def conclude(self) -> None:
        """Once the run is over, see that the job is, too: it must not start again, nor wait for its time limit."""
        with suppress(OrchError):
            self.watch.cancel(kill=False)
            if self.settled().state in WAITING | HOLDING:
                self.watch.cancel(kill=True)


def begun(errands: JobErrands, run_id: str) -> JobHere:
    """Return the job once its first attempt has nodes. Raises PreflightError if Slurm ended it before."""
    with interrupted_in_pauses() as pause:
        job = errands.await_nodes(1, pause)
    if job is None:
        ended = errands.watch.job()
        told = end_of_job(ended.record.job_id or "?", run_id, ended.state, "-", signalled=False)
        why = f": {told.cause}" if told is not None else f" ({ended.state or 'Slurm has forgotten it'})"
        raise PreflightError(
            f"job {ended.record.job_id} ended before it had nodes{why}",
            remedy=told.remedy if told is not None else f"read {ended.folder}/slurm-*.out there",
            host=errands.watch.login.name,
        )
    return job
