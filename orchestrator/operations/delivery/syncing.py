"""Brings the project folder to every node, verified by hash, or shows what differs there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.core.inventory.hosts import DataSource
from orchestrator.core.text.counted import counted
from orchestrator.core.transfer.data import parse_data
from orchestrator.core.transfer.local_tree import Difference, LocalTree
from orchestrator.errors import HostErrors, OrchError
from orchestrator.local.datasets import KNOWN
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.delivery.consent import Agree, agreed_to, outside
from orchestrator.operations.delivery.data import missing_data
from orchestrator.operations.delivery.environments import lacking
from orchestrator.operations.delivery.pushing import push_tree
from orchestrator.operations.run.source import project_name
from orchestrator.protocol.transfer import Verified, Verify
from orchestrator.remote.fanout import failures, on_all
from orchestrator.remote.node import Node
from orchestrator.remote.store import ANSWER_TIMEOUT, Push
from orchestrator.ui.answers import show_compared
from orchestrator.ui.display import Display


@dataclass(frozen=True)
class SyncOptions:
    """The options of ``orch sync``. ``keep``: how many of the newest trees, environments and runs pruning keeps.

    ``data``: ``PATH[:PATH on the nodes]`` to send besides the inventory's, at ``rate`` bytes per second or less.
    ``offline``: this machine sends the wheels of all environments, and no node tries to reach a package index.
    ``agree`` is asked before data from outside the project are sent; None if no user can be asked.
    """

    project: Path | None = None
    check: bool = False
    dry_run: bool = False
    watch: bool = False
    prune: bool = False
    keep: int = 3
    runs: bool = False
    data: tuple[str, ...] = ()
    rate: float | None = None
    offline: bool = False
    agree: Agree | None = None


def wanted_data(opened: OpenCluster, beside: Path, options: SyncOptions) -> list[DataSource]:
    """Return the data of the inventory, with paths relative to its folder ``beside``, and of the command line.

    Raises UsageError if the user does not agree to send what the inventory names outside the project.
    """
    of_inventory = [
        each if each.path in KNOWN else replace(each, path=str(beside / Path(each.path).expanduser()))
        for each in opened.inventory.data
    ]
    agreed_to(outside(beside, of_inventory), beside / opened.inventory.source, options.agree)
    return [*of_inventory, *(parse_data(text, Path(text).exists()) for text in options.data)]


def deliver(opened: OpenCluster, nodes: Sequence[Node], tree: LocalTree, display: Display) -> None:
    """Push the tree to the hosts that lack it. Raises HostErrors."""
    project, workdirs = project_name(tree.root), {host.name: host.workdir for host in opened.hosts}

    def there(node: Node) -> bool:
        return node.has_tree(workdirs[node.name], project, tree.tree_id)

    files, size = counted(len(tree.entries), "file"), f"{tree.size / 1e6:.1f} MB"
    with display.stage(f"syncing {tree.root}: {files}, {size}") as stage:
        known = on_all(nodes, there, limit=opened.fanout)
        if errors := failures(known):
            raise HostErrors(errors, len(nodes))
        absent = [node for node, has in zip(nodes, known, strict=True) if not has]
        stage.result = "every host has it"
        if absent:
            pushed = push_tree(absent, workdirs, project, tree, opened.fanout, display)
            stage.result = (
                f"sent {counted(pushed.size, 'byte')} to {len(pushed.sent)} of {counted(len(nodes), 'host')}"
            )
            if pushed.through:
                stage.result += f"; {len(pushed.through)} share a disk with one of them"
    display.write(f"tree {tree.tree_id} is on {counted(len(nodes), 'host')}\n")


def compare(
    opened: OpenCluster,
    nodes: Sequence[Node],
    tree: LocalTree,
    options: SyncOptions,
    beside: Path,
    display: Display,
) -> dict[str, list[str]]:
    """Print and return the differences of each host, a line each. Nothing is written on the hosts.

    With ``options.check``, the hosts read their code again, which finds changes made there since the sync.
    """
    project, workdirs = project_name(tree.root), {host.name: host.workdir for host in opened.hosts}

    def look(node: Node) -> list[str]:
        workdir = workdirs[node.name]
        push = Push(node, workdir, project, tree, look=True)
        push.close()
        if not push.have:
            return differing(push.difference)
        if not options.check:
            return []
        request = Verify(workdir=workdir, project=project, tree=tree.tree_id)
        return damaged(node.ask(request, Verified.from_wire, ANSWER_TIMEOUT, scale=8))

    with display.stage(f"comparing {counted(len(tree.entries), 'file')} with {counted(len(nodes), 'host')}"):
        outcomes = on_all(nodes, look, limit=opened.fanout)
    if errors := failures(outcomes):
        raise HostErrors(errors, len(nodes))
    found = {
        node.name: outcome
        for node, outcome in zip(nodes, outcomes, strict=True)
        if not isinstance(outcome, OrchError)
    }
    for node in lacking(opened, nodes):
        found[node.name].append(f"+ the environment of {opened.environments[node.name].source}")
    for source in wanted_data(opened, beside, options):
        for name, paths in missing_data(opened, nodes, source, display).items():
            found[name] += [f"+ {shown(path)} of {Path(source.path).name}" for path in paths]
    show_compared(display, found, tree.tree_id)
    return found


def differing(change: Difference) -> list[str]:
    """Return a line for each file that would be sent or removed."""
    return [
        *(f"+ {shown(entry.path)} ({counted(entry.size, 'byte')})" for entry in change.added),
        *(f"~ {shown(entry.path)} ({counted(entry.size, 'byte')})" for entry in change.changed),
        *(f"- {shown(path)}" for path in change.removed),
    ]


def damaged(answer: Verified) -> list[str]:
    """Return a line for each file that was changed on a host since the sync."""
    return [
        *(f"! {shown(path)} was changed there" for path in answer.changed),
        *(f"! {shown(path)} was removed there" for path in answer.missing),
        *(f"! {shown(path)} was added there" for path in answer.added),
    ]


def shown(path: str) -> str:
    """Return a path for a terminal: its ``repr`` if it has control characters or undecodable bytes."""
    return path if path.isprintable() else repr(path)
