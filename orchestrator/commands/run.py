"""``orch run``, ``orch plan``: preflight, sync, launch, stream, collect, summary."""

from __future__ import annotations

import getpass
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.commands.session import Session, Target, gather_facts, read_inventory, session
from orchestrator.commands.workload import Source
from orchestrator.core import checks
from orchestrator.core.events import Event, RunResult
from orchestrator.core.facts import Facts
from orchestrator.core.inventory import Outputs, select
from orchestrator.core.plan import DEFAULT_PORT, LaunchPlan, RunSpec, assumed_facts, plan
from orchestrator.core.snapshot import Snapshot, take
from orchestrator.core.torchrun import command
from orchestrator.display import Display
from orchestrator.errors import HostErrors, OrchError, PreflightError, UsageError
from orchestrator.remote.fanout import failures, on_all
from orchestrator.remote.gang import GRACE, Gang
from orchestrator.remote.node import Node
from orchestrator.remote.outputs import Collected, collect
from orchestrator.rundir import RunFolder

TAIL_LINES = 20


@dataclass(frozen=True)
class RunOptions:
    """What ``orch run`` was asked for, beside the target."""

    spec: RunSpec
    source: Source
    runs_dir: Path
    resume: str | None = None
    check: bool = True


@dataclass(frozen=True)
class Prepared:
    """A run that could start now."""

    plan: LaunchPlan
    nodes: tuple[Node, ...]
    facts: Mapping[str, Facts]
    trees: Mapping[str, Sequence[Snapshot]]


def run(target: Target, options: RunOptions, display: Display) -> int:
    """Do it all; returns the exit code."""
    with session(target) as opened:
        prepared = prepare(opened, options, display)
        display.settings(prepared.plan, environments(prepared.facts))
        push(prepared, opened.fanout, display)
        folder = RunFolder.create(options.runs_dir, prepared.plan)
        try:
            follow(prepared, folder, display)
            fetch(prepared, opened.inventory.outputs, folder, display)
            return conclude(folder, display)
        finally:
            folder.close()


def preview(target: Target, options: RunOptions, display: Display, *, offline: bool) -> LaunchPlan:
    """The plan that ``run`` would make, started nowhere. ``offline`` asks no node and assumes the rest."""
    if offline:
        inventory = read_inventory(target.hosts_file)
        chosen = select(inventory, target.nodes)
        # With nobody asked, the address that SSH dials is the best guess at the one to meet at.
        hosts = [replace(host, fabric_address=host.fabric_address or host.address) for host in chosen]
        facts = {host.name: assumed_facts(host) for host in hosts}
        made = plan(hosts, inventory.rendezvous, options.spec, facts, new_run_id())
        note = "no node was asked: port, interpreter and number of GPUs are assumed, addresses are the inventory's"
        return replace(made, notes=(*made.notes, note))
    with session(target) as opened:
        return prepare(opened, options, display).plan


def prepare(opened: Session, options: RunOptions, display: Display) -> Prepared:
    """Connect, gather facts, check them and plan. Nothing is changed on any node but the node program."""
    resumed = earlier_outputs(options, [host.name for host in opened.hosts])
    with ThreadPoolExecutor(1) as beside, display.stage(f"connecting to {_count(opened.hosts, 'host')}"):
        taking = beside.submit(take, options.source.root)
        nodes = opened.connect()
        code = taking.result()
    trees = {host.name: [code, *resumed.get(host.name, ())] for host in opened.hosts}
    port = options.spec.port or opened.inventory.rendezvous.port
    project = options.spec.workload.project
    requests: dict[str, dict[str, Any]] = {
        host.name: {
            "python": host.python,
            "trees": [[host.workdir, project, tree.tree_id] for tree in trees[host.name]],
        }
        for host in opened.hosts
    }
    requests[opened.hosts[0].name] |= {"master_port": port or DEFAULT_PORT, "port_fixed": port is not None}
    with display.stage("checking"):
        facts = gather_facts(nodes, requests, opened.fanout)
    preflight(checks.check(opened.hosts, facts, port), len(nodes), options.check, display)
    made = plan(opened.hosts, opened.inventory.rendezvous, options.spec, facts, new_run_id())
    return Prepared(made, nodes, facts, trees)


def preflight(findings: Sequence[checks.Finding], hosts: int, strict: bool, display: Display) -> None:
    """Show the findings; raises HostErrors if one would make the run fail, unless told not to care."""
    fatal = [finding for finding in findings if finding.severity == "fail"]
    display.findings([finding for finding in findings if not strict or finding not in fatal])
    if fatal and strict:
        errors = [PreflightError(found.what, remedy=found.remedy, host=found.node) for found in fatal]
        raise HostErrors(errors, hosts)


def push(prepared: Prepared, limit: int, display: Display) -> None:
    """Put the trees on the nodes that lack them; raises HostErrors."""
    missing = [
        (
            node,
            [tree for tree, there in zip(trees, prepared.facts[node.name].trees, strict=True) if not there],
        )
        for node in prepared.nodes
        for trees in [prepared.trees[node.name]]
    ]
    workdirs = {each.node: each.workdir for each in prepared.plan.nodes}

    def send(item: tuple[Node, list[Snapshot]]) -> None:
        node, trees = item
        for tree in trees:
            node.store(tree, workdirs[node.name], prepared.plan.spec.workload.project)

    code = prepared.trees[prepared.nodes[0].name][0]
    with display.stage(f"syncing {_count(code.entries, 'file')}, tree {code.tree_id[:8]}") as stage:
        wanting = [item for item in missing if item[1]]
        stage.result = f"sent to {_count(wanting, 'host')}" if wanting else "every host has it"
        if errors := failures(on_all(wanting, send, limit=limit)):
            raise HostErrors(errors, len(prepared.nodes))


def start_requests(prepared: Prepared) -> dict[str, dict[str, Any]]:
    """What each node is told to start. Environments travel here and nowhere else."""
    made = prepared.plan
    owner = f"{getpass.getuser()}@{socket.gethostname()}"
    requests = {}
    for node in made.nodes:
        launch = command(made, node)
        code, *overlays = prepared.trees[node.node]
        requests[node.node] = {
            "run_id": made.run_id,
            "node": node.node,
            "owner": owner,
            "workload": made.spec.workload.name,
            "workdir": node.workdir,
            "project": made.spec.workload.project,
            "tree": code.tree_id,
            "overlays": [tree.tree_id for tree in overlays],
            "cwd": made.spec.workload.cwd,
            "argv": launch.argv,
            "env": dict(launch.env),
            "first_rank": node.first_rank,
            "nproc": node.nproc_per_node,
            "grace": GRACE,
        }
    return requests


def follow(prepared: Prepared, folder: RunFolder, display: Display) -> None:
    """Start the gang and hear it to its end. The first failure stops the others, Ctrl-C stops all."""
    gang = Gang(prepared.nodes, prepared.plan.run_id)

    def heard(event: Event) -> None:
        folder.record(event)
        display.event(event)

    heard(Event(time.time(), "planned", None, {"nodes": [node.name for node in prepared.nodes]}))
    with stopping_on_signals(gang):
        if refusals := gang.start(start_requests(prepared)):
            raise HostErrors(refusals, len(prepared.nodes))
        stopping = False
        while (item := gang.next()) is not None:
            if not isinstance(item, Event):
                folder.log(item)
                display.output(item)
                continue
            heard(item)
            result = folder.result()
            if not stopping and (result.failure or any(each.state == "lost" for each in result.nodes.values())):
                stopping = True
                gang.stop("a node was lost" if result.failure is None else result.failure.describe())
    display.end_of_output()


@contextmanager
def stopping_on_signals(gang: Gang) -> Iterator[None]:
    """SIGINT and SIGTERM stop the run; a second one skips the grace, a third leaves at once."""
    received: list[int] = []

    def handle(number: int, _frame: object) -> None:
        received.append(number)
        if len(received) > 2:
            raise KeyboardInterrupt
        name = signal.Signals(number).name
        gang.stop("interrupted" if number == signal.SIGINT else name, GRACE if len(received) == 1 else 0.0)

    before: dict[int, Callable[..., Any] | int | None] = {}
    for number in (int(signal.SIGINT), int(signal.SIGTERM)):
        before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fetch(prepared: Prepared, outputs: Outputs, folder: RunFolder, display: Display) -> None:
    """Collect what each node wrote; a node that cannot be asked is named, the others' files are kept."""
    lost = {name for name, each in folder.result().nodes.items() if each.state == "lost"}
    reachable = [node for node in prepared.nodes if node.name not in lost]

    def collect_from(node: Node) -> Collected:
        return collect(node, prepared.plan.run_id, outputs, folder.node_folder(node.name))

    with display.stage("collecting outputs") as stage:
        outcomes = on_all(reachable, collect_from)
        size = 0
        for node, outcome in zip(reachable, outcomes, strict=True):
            if isinstance(outcome, OrchError):
                display.error(outcome)
                continue
            size += outcome.size
            fields = {"files": outcome.files, "bytes": outcome.size, "left": list(outcome.left)}
            folder.record(Event(time.time(), "collected", node.name, fields))
        stage.result = f"{size / 1e6:.1f} MB"


def conclude(folder: RunFolder, display: Display) -> int:
    """Show how it ended; the exit code that says so."""
    result = folder.result()
    failure = result.failure
    tail = folder.tail(failure.node, failure.rank, TAIL_LINES) if failure else []
    code = exit_code(result)
    event = Event(time.time(), "run_finished", None, {"exit_code": code})
    folder.record(event)
    display.event(event)
    display.summary(result, folder.path, tail)
    return code


def exit_code(result: RunResult) -> int:
    """0 done, 1 failed, 4 a node was lost, 130 interrupted."""
    if result.ok:
        return 0
    if result.failure is not None:
        return 1
    if any(node.state == "lost" for node in result.nodes.values()):
        return 4
    return 130


def earlier_outputs(options: RunOptions, hosts: Sequence[str]) -> dict[str, list[Snapshot]]:
    """``--resume``: each node's outputs of an earlier run; a node that had no part in it gets its first node's."""
    if options.resume is None:
        return {}
    path = options.runs_dir / options.resume
    if not path.is_dir():
        path = Path(options.resume)
    folders = {each.name: each for each in sorted(path.iterdir()) if each.is_dir()} if path.is_dir() else {}
    folders.pop("logs", None)
    if not folders:
        raise UsageError(f"--resume {options.resume}: no outputs of such a run in {options.runs_dir}")
    first = next((name for name in hosts if name in folders), next(iter(folders)))
    return {name: [take(folders.get(name, folders[first]), obey_ignore_files=False)] for name in hosts}


def environments(facts: Mapping[str, Facts]) -> list[str]:
    """The interpreters in use, equal ones named once."""
    users: dict[str, list[str]] = {}
    for name, known in facts.items():
        python = known.python
        users.setdefault(f"{python.path} (Python {python.version}, torch {python.torch})", []).append(name)
    if len(users) == 1:
        return list(users)
    return [f"{', '.join(names)}: {python}" for python, names in users.items()]


def new_run_id() -> str:
    """``20261121-042040-7f3a``: sorts by time, and two started in one second differ."""
    return time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)


def _count(things: Sequence[object], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"
