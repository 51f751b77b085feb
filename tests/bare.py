"""Run any program on one node as ``orch run`` does, but without torchrun, whose import takes seconds."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.core.inventory.hosts import Host
from orchestrator.core.inventory.target import Settings
from orchestrator.core.transfer.local_tree import hash_tree
from orchestrator.protocol.run import Start, Started
from orchestrator.remote.node import Call, Node
from orchestrator.remote.ssh.connection import connections
from orchestrator.remote.store import Push
from tests.namespaces import Cluster

PROJECT = "bare"


@contextmanager
def connected(cluster: Cluster, position: int = 0, settings: Settings | None = None) -> Iterator[Node]:
    """Connect to one of the hosts. HOME must be the cluster's control home."""
    name = f"node{position + 1}"
    host = Host(name, cluster.hosts[position].address, user="root", identity_file=str(cluster.identity_file))
    link = connections([host], settings or Settings())[0]
    link.open()
    try:
        yield Node(link)
    finally:
        link.close()


def request(node: Node, project: Path, argv: Sequence[str], **changes: Any) -> Start:
    """Sync the folder ``project`` and return the request that starts ``argv`` in a copy of it on the node."""
    tree = hash_tree(project)
    pushed = Push(node, "~/orch-work", PROJECT, tree)
    pushed.close() if pushed.have else pushed.send()
    run_id = f"bare-{secrets.token_hex(4)}"
    usual = Start(
        run_id=run_id,
        attempt=1,
        node=node.name,
        nodes=(node.name,),
        node_rank=0,
        owner="root@here",
        workload="bare",
        workdir="~/orch-work",
        project=PROJECT,
        tree=tree.tree_id,
        overlays=(),
        cwd=".",
        argv=tuple(argv),
        env={"ORCH_RUN_ID": run_id, "ORCH_ATTEMPT": "1"},
        files={},
        first_rank=0,
        min_nodes=None,
        nproc=1,
        grace=5.0,
        on_disconnect=None,
        cut_off=None,
    )
    return usual.replace(**changes)


def start(node: Node, asked: Start) -> Call:
    """Start the run and return the call, which goes on to follow it."""
    call = node.call(asked)
    call.answer(Started.from_wire, 20.0)
    return call
