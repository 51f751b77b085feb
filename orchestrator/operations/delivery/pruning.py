"""Removes from every node what no run uses any more."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.core.inventory.hostrange import folded
from orchestrator.errors import HostErrors, OrchError
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.delivery.syncing import SyncOptions
from orchestrator.protocol.transfer import ListUsed, Prune, Pruned, Used
from orchestrator.remote.fanout import failures, on_all
from orchestrator.remote.node import Node
from orchestrator.remote.store import ANSWER_TIMEOUT
from orchestrator.ui.display import Display


def prune(opened: OpenCluster, nodes: Sequence[Node], options: SyncOptions, display: Display) -> int:
    """Remove old trees, environments, blobs and runs that are not in use from every host, and return 0.

    All hosts are first asked what their runs use, because they may share a disk. Raises HostErrors.
    """
    workdirs = {host.name: host.workdir for host in opened.hosts}

    asked = on_all(
        nodes, lambda node: node.ask(ListUsed(), Used.from_wire, ANSWER_TIMEOUT).used, limit=opened.fanout
    )
    if errors := failures(asked):
        raise HostErrors(errors, len(nodes))
    used = sorted({name for names in asked if not isinstance(names, OrchError) for name in names})

    def prune_there(node: Node) -> Pruned:
        request = Prune(workdir=workdirs[node.name], keep=options.keep, runs=options.runs, used=tuple(used))
        return node.ask(request, Pruned.from_wire, ANSWER_TIMEOUT)

    outcomes = on_all(nodes, prune_there, limit=opened.fanout)
    alike: dict[str, list[str]] = {}
    for node, outcome in zip(nodes, outcomes, strict=True):
        if not isinstance(outcome, OrchError):
            counts = [(getattr(outcome, what), what) for what in ("trees", "environments", "blobs", "runs")]
            told = ", ".join(f"{count} {what}" for count, what in counts if count) or "nothing"
            alike.setdefault(f"removed {told}, {outcome.bytes / 1e6:.1f} MB", []).append(node.name)
    for text, names in alike.items():
        display.write(f"{folded(names)}: {text}\n")
    if errors := failures(outcomes):
        raise HostErrors(errors, len(nodes))
    return 0
