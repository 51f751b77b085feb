"""Launch preparation: connect, gather facts, check, plan and push, until an attempt could start."""

from __future__ import annotations

import getpass
import secrets
import socket
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.core.checks.catalogue import check
from orchestrator.core.checks.facts import Facts
from orchestrator.core.checks.findings import Examined, Finding, merged
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.launch.command import NodeCommand, command
from orchestrator.core.launch.mpirun import hosts_of, with_mpi
from orchestrator.core.launch.plan import DEFAULT_PORT, LaunchPlan, NodePlan, plan
from orchestrator.core.text.counted import counted
from orchestrator.core.transfer.local_tree import LocalTree, hash_tree
from orchestrator.errors import HostErrors, PreflightError, SyncError, UsageError
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.delivery.environments import ensure
from orchestrator.operations.delivery.images import ensure_images
from orchestrator.operations.delivery.pushing import connected_with, push_tree
from orchestrator.operations.delivery.run_data import RunData, data_of_run
from orchestrator.operations.run.options import RunOptions, new_run_id
from orchestrator.operations.survey import QUICK_PARTS, facts_request, with_probes
from orchestrator.protocol.launch.mpi import MpiPart
from orchestrator.protocol.run import CutOff, Start
from orchestrator.remote.fanout import failures, on_all
from orchestrator.remote.node import Node
from orchestrator.remote.probing import ask_facts, hang_up
from orchestrator.remote.store import Push
from orchestrator.ui.display import Display
from orchestrator.ui.doctor import show_findings


@dataclass(frozen=True)
class Lineup:
    """The nodes of an attempt, in node_rank order. ``new`` names those without a part in the attempt before."""

    hosts: tuple[Host, ...]
    nodes: tuple[Node, ...]
    new: tuple[str, ...] = ()


@dataclass(frozen=True)
class PreparedAttempt:
    """An attempt that could start now. ``trees`` holds each node's: the code, then trees to lay over it.

    ``data``: what every node must have besides; ``facts`` tell which nodes do.
    """

    plan: LaunchPlan
    lineup: Lineup
    facts: Mapping[str, Facts]
    trees: Mapping[str, Sequence[LocalTree]]
    data: tuple[RunData, ...] = ()


def prepare(opened: OpenCluster, options: RunOptions, display: Display) -> PreparedAttempt:
    """Connect, gather facts, check them and plan. Raises OrchError.

    This changes nothing on a node except the node program and the environments that orch builds.
    """
    resumed = earlier_outputs(options, [host.name for host in opened.hosts])
    with display.stage(f"connecting to {_count(opened.hosts, 'host')}"):
        code, nodes = connected_with(opened, options.source.root)
    trees = {host.name: [code, *resumed.get(host.name, ())] for host in opened.hosts}
    data = data_of_run(opened, options, display)
    return planned(opened, options, Lineup(opened.hosts, nodes), trees, data, new_run_id(), 1, display)


def planned(
    opened: OpenCluster,
    options: RunOptions,
    lineup: Lineup,
    trees: Mapping[str, Sequence[LocalTree]],
    data: tuple[RunData, ...],
    run_id: str,
    number: int,
    display: Display,
) -> PreparedAttempt:
    """Build missing environments, bring missing images, gather facts, check them, and plan attempt ``number``.

    Raises HostErrors, PreflightError.
    """
    ensure(opened, lineup.nodes, display)
    found = ensure_images(opened, lineup.nodes, display)
    fixed = options.spec.port or opened.inventory.rendezvous.port
    project = options.spec.workload.project
    parts = (*QUICK_PARTS, *(("mpi",) if options.spec.launcher == "mpirun" else ()))
    requests = {
        host.name: facts_request(host, parts, found.get(host.name)).replace(
            trees=tuple((host.workdir, project, tree.tree_id) for tree in trees[host.name]),
            data=tuple(check for each in data for check in each.checks(host.workdir)),
        )
        for host in lineup.hosts
    }
    first = lineup.hosts[0].name
    requests[first] = requests[first].replace(
        master_port=(fixed or DEFAULT_PORT) + number - 1,
        port_fixed=fixed is not None and number == 1,
    )
    with display.stage("checking"):
        answers, errors = ask_facts(lineup.nodes, requests, opened.fanout)
        if errors:
            hang_up(answers)
            raise HostErrors(errors, len(lineup.nodes))
        facts = {name: replace(answer.facts, engine=found.get(name)) for name, answer in answers.items()}
        examined = Examined(
            hosts=lineup.hosts,
            facts=facts,
            port=fixed if number == 1 else None,
            backend=options.spec.backend,
            own_run=run_id,
            one_machine=opened.inventory.sandbox,
        )
        examined = with_probes(examined, answers, opened.inventory.rendezvous.interface, thorough=False)
    preflight(check(examined, quick=True), len(lineup.nodes), options.check, display)
    rendezvous, alike = opened.inventory.rendezvous, opened.inventory.sandbox
    made = plan(lineup.hosts, rendezvous, options.spec, facts, run_id, number, one_machine=alike)
    made = with_mpi(made, lineup.hosts, {name: known.parts for name, known in facts.items()})
    made = replace(made, trees={name: tuple(tree.tree_id for tree in each) for name, each in trees.items()})
    return PreparedAttempt(made, lineup, facts, trees, data)


def preflight(findings: Sequence[Finding], hosts: int, strict: bool, display: Display) -> None:
    """Show the findings. If ``strict``, raise HostErrors for those with which the run would fail."""
    fatal = [finding for finding in findings if finding.severity == "fail"]
    show_findings(display, merged([finding for finding in findings if not strict or finding not in fatal]))
    if fatal and strict:
        errors = [
            PreflightError(found.what, remedy=found.remedy, host=where)
            for found in fatal
            for where in ([found.where] if found.pair else found.nodes)
        ]
        raise HostErrors(errors, hosts)


def push(prepared: PreparedAttempt, limit: int, display: Display, *, sync: bool = True) -> None:
    """Send the trees to the nodes that lack them; without ``sync``, refuse instead. Raises HostErrors."""
    nodes = prepared.lineup.nodes
    workdirs = {each.node: each.workdir for each in prepared.plan.nodes}
    project = prepared.plan.spec.workload.project
    lacking = [node for node in nodes if not prepared.facts[node.name].trees[0]]
    overlays = [
        (node, tree)
        for node in nodes
        for tree, there in zip(prepared.trees[node.name][1:], prepared.facts[node.name].trees[1:], strict=True)
        if not there
    ]

    def send(item: tuple[Node, LocalTree]) -> None:
        node, tree = item
        push = Push(node, workdirs[node.name], project, tree)
        push.close() if push.have else push.send()

    code = prepared.trees[nodes[0].name][0]
    if not sync and (lacking or overlays):
        refused = [
            SyncError(
                f"lacks tree {code.tree_id[:8]}", remedy="run orch sync, or leave out --no-sync", host=node.name
            )
            for node in lacking or [node for node, _ in overlays]
        ]
        raise HostErrors(refused, len(nodes))
    with display.stage(f"syncing {_count(code.entries, 'file')}, tree {code.tree_id[:8]}") as stage:
        pushed = push_tree(lacking, workdirs, project, code, limit, display) if lacking else None
        if errors := failures(on_all(overlays, send, limit=limit)):
            raise HostErrors(errors, len(nodes))
        stage.result = "every host has it"
        if pushed is not None:
            stage.result = f"sent {pushed.size / 1e6:.1f} MB to {_count(pushed.sent, 'host')}"


def start_requests(prepared: PreparedAttempt, options: RunOptions, grace: float, max_log: int) -> dict[str, Start]:
    """Return each node's request to start. No other message carries variables. ``grace`` is in seconds,
    ``max_log`` in bytes."""
    made = prepared.plan
    owner = f"{getpass.getuser()}@{socket.gethostname()}"
    ports = {host.name: host.port or 22 for host in prepared.lineup.hosts}
    doors = {node.node: (node.address, ports[node.node]) for node in made.nodes if node.address}
    requests = {}
    key = secrets.token_hex(32)
    for node in made.nodes:
        launch = command(made, node)
        code, *overlays = prepared.trees[node.node]
        peers = tuple(door for name, door in doors.items() if name != node.node)
        requests[node.node] = Start(
            run_id=made.run_id,
            attempt=made.attempt,
            node=node.node,
            nodes=tuple(each.node for each in made.nodes),
            node_rank=node.node_rank,
            owner=owner,
            workload=made.spec.workload.name,
            workdir=node.workdir,
            project=made.spec.workload.project,
            tree=code.tree_id,
            overlays=tuple(tree.tree_id for tree in overlays),
            cwd=made.spec.workload.cwd,
            argv=tuple(launch.argv),
            container=launch.container,
            mpi=mpi_part(made, node, launch, key),
            env=dict(launch.env),
            files=dict(launch.files),
            first_rank=node.first_rank,
            min_nodes=made.min_nodes,
            nproc=node.nproc_per_node,
            grace=grace,
            log_limit=max_log,
            on_disconnect=options.on_disconnect,
            still_after=options.hang_timeout,
            # A node that is cut off must end its part, because a spare may replace it meanwhile.
            cut_off=CutOff(after=options.node_timeout, peers=peers)
            if options.max_restarts or made.min_nodes
            else None,
        )
    return requests


def mpi_part(made: LaunchPlan, node: NodePlan, launch: NodeCommand, key: str) -> MpiPart | None:
    """Return a node's part in a run that mpirun starts; None for another launcher. ``key``: a secret."""
    if made.mpi is None or launch.inside is None:
        return None
    hosts = hosts_of(made)
    host = hosts[node.node_rank]
    return MpiPart(host=host, hosts=hosts, port=made.master_port, key=key, argv=tuple(launch.inside.argv))


def earlier_outputs(options: RunOptions, hosts: Sequence[str]) -> dict[str, list[LocalTree]]:
    """Return each host's outputs of the run to ``--resume``. A host without any gets the first host's.

    Raises UsageError if there are none.
    """
    if options.resume is None or not hosts:
        return {}
    path = options.runs_dir / options.resume
    if not path.is_dir():
        path = Path(options.resume)
    folders = {each.name: each for each in sorted(path.iterdir()) if each.is_dir()} if path.is_dir() else {}
    folders.pop("logs", None)
    if not folders:
        raise UsageError(f"--resume {options.resume}: no outputs of this run in {options.runs_dir}")
    first = next((name for name in hosts if name in folders), next(iter(folders)))
    return {name: [hash_tree(folders.get(name, folders[first]), obey_ignore_files=False)] for name in hosts}


def _count(things: Collection[object], noun: str) -> str:
    return counted(len(things), noun)
