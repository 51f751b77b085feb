"""The engine's ``NodeClient`` for a node of a batch job, followed over the connection to the login node."""

from __future__ import annotations

import time

from orchestrator import errors
from orchestrator.core.run.job import HOLDING, WAITING
from orchestrator.protocol.run import Follow
from orchestrator.protocol.slurm import JobHere, Place
from orchestrator.remote.node import Node
from orchestrator.remote.node_client import SshNodeClient
from orchestrator.remote.slurm.login import SharedConnection
from orchestrator.remote.slurm.queue import FRESH, Watch

# How long srun may take to begin on a node, whose prolog it awaits, in seconds.
BEGINNING = 120.0


def job_nodes(login: Node, job: JobHere) -> list[Node]:
    """Return the nodes of a job's newest attempt in node_rank order, over connections to the login node.

    Raises NodeUnreachable if a further connection is needed and cannot be made.
    """
    assert isinstance(login.connection, SharedConnection)
    return [
        Node(link, job.names[rank], Place(state=job.folder, hostname=f"node{rank}"))
        for rank, link in enumerate(login.connection.seats(len(job.names)))
    ]


class JobClient(SshNodeClient):
    """A node's part in an attempt that Slurm starts. ``rank``: its node_rank."""

    def __init__(self, node: Node, request: Follow, timeout: float, watch: Watch, rank: int) -> None:
        super().__init__(node, request, timeout)
        self.watch = watch
        self.rank = rank

    def start(self) -> None:
        """Wait until Slurm has started the attempt on the node, and follow it. Raises OrchError."""
        self.follow()

    def follow(self) -> None:
        """Follow the attempt, once the node has begun it. Raises OrchError."""
        until = time.monotonic() + BEGINNING
        while not self._begun():
            if time.monotonic() > until:
                raise errors.NodeProgramError(
                    f"Slurm gave the job this node, and nothing began within {BEGINNING:g} s",
                    remedy=f"read {self.watch.job().folder}/slurm-*.out on the login node",
                    host=self.name,
                )
            time.sleep(FRESH / 2)
        super().follow()

    def _begun(self) -> bool:
        """Return whether the node has begun the attempt. Raises PreflightError if it never will."""
        job, attempt = self.watch.job(), self.request.attempt or 1
        if any(part.node_rank == self.rank and part.attempt >= attempt for part in job.parts):
            return True
        if job.state not in HOLDING | WAITING or job.attempt > attempt:
            state = job.state or "which Slurm has forgotten"
            raise errors.PreflightError(
                f"job {job.record.job_id} ({state}) ended before this node began",
                remedy=f"read {job.folder}/slurm-{job.record.job_id}.out on the login node",
                host=self.name,
            )
        return False

    def sweep(self) -> int:
        """Return 0: Slurm ends what a job leaves on its nodes."""
        return 0
