"""Ask Slurm whether it would take a job as the hosts file describes it."""

from __future__ import annotations

from orchestrator.core.checks.findings import Finding
from orchestrator.core.inventory.sections.scheduler import Slurm
from orchestrator.core.launch.job import node_count, sbatch_options
from orchestrator.core.run.job import remedy_for
from orchestrator.errors import PreflightError
from orchestrator.operations.cluster import OpenCluster
from orchestrator.protocol.slurm import CheckJob, JobChecked
from orchestrator.remote.node import Node
from orchestrator.remote.slurm.queue import ANSWER_LIMIT
from orchestrator.ui.display import Display


def check_scheduler(opened: OpenCluster, slurm: Slurm, display: Display) -> tuple[Finding, ...]:
    """Return a finding if Slurm would refuse a run's job: no such partition, account, or number of nodes.

    The cluster must be connected. No job is submitted.
    """
    login = Node(opened.links[0])
    nodes = node_count(slurm, opened.target.nodes)
    options = tuple(sbatch_options(slurm, "check", nodes, requeue=False))
    try:
        with display.stage("asking Slurm") as stage:
            stage.result = login.ask(CheckJob(options=options), JobChecked.from_wire, ANSWER_LIMIT).version
    except PreflightError as error:
        return (Finding((login.name,), "fail", error.message, remedy_for(error.message), "scheduler"),)
    return ()
