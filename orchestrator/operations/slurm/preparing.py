"""Prepare a run as a batch job: sync through the login node, plan, and compose the job."""

from __future__ import annotations

import getpass
import secrets
import socket
import time
from dataclasses import dataclass, replace

from orchestrator.core.checks.facts import Facts
from orchestrator.core.inventory.sections.scheduler import Slurm
from orchestrator.core.launch.job import Gaps, host_names, job_plan, node_count, with_gaps
from orchestrator.core.launch.plan import LaunchPlan
from orchestrator.core.run.policy import grace_of
from orchestrator.core.transfer.local_tree import LocalTree
from orchestrator.errors import HostErrors, PreflightError
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.delivery.environments import ensure
from orchestrator.operations.delivery.pushing import connected_with
from orchestrator.operations.delivery.run_data import RunData, data_of_run, deliver_data
from orchestrator.operations.run.launching import (
    Lineup,
    PreparedAttempt,
    earlier_outputs,
    push,
    start_requests,
)
from orchestrator.operations.run.options import RunOptions, new_run_id
from orchestrator.operations.survey import facts_request
from orchestrator.protocol.slurm import JobRecord, Starts, Submit
from orchestrator.remote.node import Node
from orchestrator.remote.probing import ask_facts, hang_up
from orchestrator.ui.display import Display


@dataclass(frozen=True)
class PreparedJob:
    """A run that could be submitted now. ``trees``: the code, then the trees to lay over it."""

    plan: LaunchPlan
    login: Node
    facts: Facts
    trees: tuple[LocalTree, ...]
    data: tuple[RunData, ...]


def prepare_job(opened: OpenCluster, slurm: Slurm, options: RunOptions, display: Display) -> PreparedJob:
    """Connect to the login node, build the environment, and plan. Raises OrchError."""
    nodes, (host,) = node_count(slurm, opened.target.nodes), opened.hosts
    # Each node gets the outputs of the first node of the run to resume: machines change from job to job.
    earlier = earlier_outputs(options, host_names(1))
    with display.stage(f"connecting to {host.name}"):
        code, (login,) = connected_with(opened, options.source.root)
    trees = (code, *earlier.get("node0", ()))
    data = data_of_run(opened, options, display)
    ensure(opened, (login,), display)
    project = options.spec.workload.project
    request = facts_request(host, ()).replace(
        probe=False,
        trees=tuple((host.workdir, project, tree.tree_id) for tree in trees),
        data=tuple(check for each in data for check in each.checks(host.workdir)),
    )
    answers, errors = ask_facts((login,), {host.name: request}, 1)
    hang_up(answers)
    if errors:
        raise HostErrors(errors, 1)
    facts = answers[host.name].facts
    if facts.python.version is None and options.check:
        what = f"{facts.python.path} cannot be used: {facts.python.error or 'it is not there'}"
        remedy = "set python: under defaults: to an interpreter on the shared disk, or --no-doctor"
        raise PreflightError(what, remedy=remedy, host=host.name)
    made = job_plan(
        host,
        slurm,
        opened.inventory.rendezvous,
        options.spec,
        facts,
        new_run_id(),
        nodes,
        options.max_restarts,
        [tree.tree_id for tree in trees],
    )
    return PreparedJob(made, login, facts, trees, data)


def deliver(opened: OpenCluster, prepared: PreparedJob, options: RunOptions, display: Display) -> None:
    """Bring code and data to the shared disk. Raises OrchError."""
    (host,), facts = opened.hosts, {prepared.login.name: prepared.facts}
    deliver_data(opened, prepared.data, (prepared.login,), facts, options, options.agree, display)
    first = replace(prepared.plan.nodes[0], node=host.name)
    there = replace(prepared.plan, nodes=(first,))
    lineup = Lineup((host,), (prepared.login,))
    push(PreparedAttempt(there, lineup, facts, {host.name: prepared.trees}), 1, display, sync=options.sync)


def job_request(opened: OpenCluster, slurm: Slurm, prepared: PreparedJob, options: RunOptions) -> Submit:
    """Return the request that submits the job. Only it carries variables."""
    made, (host,) = prepared.plan, opened.hosts
    gaps = Gaps.of(secrets.token_hex(8))
    names = [node.node for node in made.nodes]
    attempt = PreparedAttempt(
        with_gaps(made, gaps),
        Lineup(tuple(replace(host, name=name) for name in names), ()),
        {},
        dict.fromkeys(names, prepared.trees),
    )
    grace = grace_of(opened.inventory.grace, options.grace).stop
    # A node that is cut off is ended by Slurm.
    starts = start_requests(attempt, replace(options, max_restarts=0), grace, opened.inventory.outputs.max_log)
    record = JobRecord(
        run_id=made.run_id,
        owner=f"{getpass.getuser()}@{socket.gethostname()}",
        workload=made.spec.workload.name,
        nodes=len(names),
        restarts=options.max_restarts,
        submitted=time.time(),
    )
    return Submit(
        workdir=slurm.workdir,
        record=record,
        starts=Starts(starts=tuple(starts[name] for name in names), master=gaps.master, attempt=gaps.attempt),
        options=made.batch,
    )
