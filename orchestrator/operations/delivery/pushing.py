"""Pushes a tree to many nodes: each gets the blobs that it lacks, and a shared disk gets the tree once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.core.transfer.local_tree import LocalTree, hash_tree
from orchestrator.errors import HostErrors, OrchError, SyncError
from orchestrator.operations.cluster import OpenCluster
from orchestrator.remote.fanout import failures, on_all
from orchestrator.remote.node import Node
from orchestrator.remote.shared_disk import groups_by_disk
from orchestrator.remote.store import Push
from orchestrator.ui.display import Display

# A folder of more bytes holds more than code. This machine sends a tree to every host; hosts pass only data on.
LARGE = 1e9
# Number of threads that read and hash: hashlib releases the GIL.
HASHING = 4


@dataclass
class Pushed:
    """The result of a push: ``sent`` bytes by node, and ``through``, which node wrote to a node's shared disk."""

    sent: dict[str, int] = field(default_factory=dict)
    through: dict[str, str] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes sent to all nodes together."""
        return sum(self.sent.values())


def connected_with(opened: OpenCluster, root: Path) -> tuple[LocalTree, tuple[Node, ...]]:
    """Hash a folder on several cores while the connections are made; return its tree and the nodes.

    Raises SyncError, HostErrors.
    """
    with ThreadPoolExecutor(1) as beside, ThreadPoolExecutor(HASHING) as hashing:
        taking = beside.submit(hash_tree, root, each=hashing.map)
        nodes = opened.connect()
        return taking.result(), nodes


def push_tree(
    nodes: Sequence[Node],
    workdirs: Mapping[str, str],
    project: str,
    tree: LocalTree,
    limit: int,
    display: Display,
) -> Pushed:
    """Send a tree to the nodes that lack it. Raises HostErrors; the other nodes keep the tree."""
    if tree.size > LARGE:
        size = f"{tree.root} holds {tree.size / 1e9:.1f} GB"
        display.note(f"{size}: list its data in .orchignore, and send them with orch sync --data")
    asked = on_all(nodes, lambda node: Push(node, workdirs[node.name], project, tree), limit=limit)
    errors = failures(asked)
    lacking = []
    for push in asked:
        if isinstance(push, Push):
            if push.have:
                push.close()
            else:
                lacking.append(push)
    done = Pushed()
    try:
        groups = groups_by_disk(lacking)
    except OrchError:
        for push in lacking:
            push.close()
        raise
    totals = {group[0].node.name: group[0].difference.size for group in groups}
    with display.transfer(f"tree {tree.tree_id[:8]}", totals) as transfer:

        def send(group: Sequence[Push]) -> None:
            first, *others = group
            name = first.node.name
            for other in others:
                other.close()
            done.sent[name] = first.send(lambda size: transfer.advance(name, size))
            for other in others:
                if not other.node.has_tree(other.workdir, project, tree.tree_id):
                    raise SyncError(
                        f"does not see what {name} wrote to the disk that they share",
                        remedy="run the command again; if it fails again, give each host a workdir: of its own",
                        host=other.node.name,
                    )
                done.through[other.node.name] = name

        errors += failures(on_all(groups, send, limit=limit))
    if errors:
        raise HostErrors(errors, len(nodes))
    return done
