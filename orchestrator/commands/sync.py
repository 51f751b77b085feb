"""``orch sync``: the project folder on every node, verified by hash."""

from __future__ import annotations

from pathlib import Path

from orchestrator.commands.session import Target, gather_facts, session
from orchestrator.commands.workload import project_name, project_of
from orchestrator.core.snapshot import take
from orchestrator.display import Display
from orchestrator.errors import HostErrors
from orchestrator.remote.fanout import failures, on_all
from orchestrator.remote.node import Node


def sync(target: Target, project: Path | None, display: Display) -> int:
    """Push the folder to the hosts that lack its tree; returns 0, raises HostErrors."""
    root = (project or project_of(Path.cwd())).resolve()
    name = project_name(root)
    snapshot = take(root)
    with session(target) as opened:
        with display.stage(f"connecting to {len(opened.hosts)} hosts"):
            nodes = opened.connect()
        workdirs = {host.name: host.workdir for host in opened.hosts}
        requests = {
            host.name: {"python": host.python, "trees": [[host.workdir, name, snapshot.tree_id]]}
            for host in opened.hosts
        }
        facts = gather_facts(nodes, requests, opened.fanout)
        lacking = [node for node in nodes if not facts[node.name].trees[0]]

        def send(node: Node) -> None:
            node.store(snapshot, workdirs[node.name], name)

        with display.stage(
            f"syncing {root}: {len(snapshot.entries)} files, {snapshot.size / 1e6:.1f} MB"
        ) as stage:
            if errors := failures(on_all(lacking, send, limit=opened.fanout)):
                raise HostErrors(errors, len(nodes))
            stage.result = f"sent to {len(lacking)} hosts, {len(nodes) - len(lacking)} had it"
    display.write(f"tree {snapshot.tree_id} is on {len(nodes)} hosts\n")
    return 0
