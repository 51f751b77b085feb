"""Another attempt of a run that failed: spares in place of lost nodes, the newest snapshot on the new rank 0."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.commands.session import Session
from orchestrator.core.events import RunResult
from orchestrator.core.inventory import Host
from orchestrator.core.snapshot import Snapshot, take
from orchestrator.display import Display
from orchestrator.errors import OrchError
from orchestrator.protocol.events import Carried, NotCarried
from orchestrator.protocol.run import ListRuns, RunsHere
from orchestrator.remote.landing import PART
from orchestrator.remote.node import Node
from orchestrator.rundir import RunFolder


@dataclass(frozen=True)
class Lineup:
    """Who takes part in an attempt, in node_rank order; ``new`` are those that had no part in the one before."""

    hosts: tuple[Host, ...]
    nodes: tuple[Node, ...]
    new: tuple[str, ...] = ()


def next_lineup(opened: Session, before: Lineup, result: RunResult, display: Display) -> Lineup | None:
    """The nodes that are left, in their order, then others for those that were lost; None if there are too few.

    Those are the spares, and then whoever was lost and has come back.
    """
    survivors = [host for host in before.hosts if host.name not in {*result.lost, *opened.given_up}]
    nodes = {node.name: node for node in before.nodes}
    chosen = [(host, nodes[host.name]) for host in survivors]
    missing = len(before.hosts) - len(survivors)
    new = []
    taking_part = {host.name for host in survivors}
    back = [(host, link) for host, link in zip(opened.hosts, opened.links, strict=True) if host.name not in nodes]
    back += [(host, nodes[host.name].connection) for host in before.hosts if host.name in result.lost]
    spares = [pair for pair in opened.spares if pair[0].name not in nodes]
    for host, link in (*spares, *back):
        if not missing:
            break
        if host.name in taking_part or host.name in opened.given_up:
            continue
        node = Node(link)
        try:
            link.reopen(link.settings.connect_timeout)
            held = node.ask(ListRuns(run_id=None, ended=False), RunsHere.from_wire, 20.0).runs
        except OrchError as error:
            opened.given_up.add(host.name)
            display.note(f"in the place of {', '.join(result.lost)}: {error}")
            continue
        if held:
            display.note(f"in the place of {', '.join(result.lost)}: {host.name} is busy with {held[0].run_id}")
            continue
        taking_part.add(host.name)
        chosen.append((host, node))
        new.append(host.name)
        missing -= 1
    if missing:
        lost = ", ".join(result.lost)
        display.note(f"no spare is left for {lost}: not started again (add hosts to spares: in the inventory)")
        return None
    return Lineup(tuple(host for host, _ in chosen), tuple(node for _, node in chosen), tuple(new))


def carried_outputs(
    folder: RunFolder, before: Sequence[str], lineup: Lineup, display: Display
) -> dict[str, list[Snapshot]]:
    """For nodes that lack the newest version of a file that some node of the run wrote: a tree of these files.

    ``before`` are the nodes of the attempt before. A node that was rank 0 and still is has its own; others get
    what they lack, where they are rank 0 now or had no part in the run so far. The files must have been collected.
    """
    first = lineup.hosts[0].name
    takers = [name for name in dict.fromkeys((first, *lineup.new)) if name != before[0]]
    newest: dict[str, tuple[int, str]] = {}
    for node in {*before, *(host.name for host in lineup.hosts)}:
        for path, changed in _files(folder.node_folder(node)).items():
            newest[path] = max(newest.get(path, (0, "")), (changed, node))
    trees: dict[str, list[Snapshot]] = {}
    for name in takers:
        own = _files(folder.node_folder(name))
        lacking = {path: about for path, about in newest.items() if own.get(path, -1) < about[0]}
        if not lacking:
            continue
        target = folder.path / ".carry" / f"attempt{folder.attempt + 1}" / name
        for path, (_, node) in lacking.items():
            there = target / path
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder.node_folder(node) / path, there)
        trees[name] = [take(target, obey_ignore_files=False)]
        sources = sorted({node for _, node in lacking.values()})
        folder.record(Carried(time=time.time(), node=name, files=tuple(sorted(lacking)), sources=tuple(sources)))
        display.note(f"{name}: gets {len(lacking)} files that {', '.join(sources)} wrote")
    result = folder.result().nodes
    for node in before:
        known = result[node]
        if node not in {host.name for host in lineup.hosts} and not _files(folder.node_folder(node)):
            why = (
                f": {known.uncollected}"
                if known.uncollected
                else "; --collect-every SECONDS would have fetched it"
            )
            display.note(f"{node} is gone with what it wrote{why}")
        elif takers and known.lacking:
            missing = f"{', '.join(takers)}: starts without the newest snapshot of {node}, {known.lacking}"
            folder.record(NotCarried(time=time.time(), node=takers[0], path=known.lacking, source=node))
            display.note(missing)
    return trees


def forget_carried(folder: RunFolder) -> None:
    """The carried files are on their nodes; the copies made for that can go."""
    shutil.rmtree(folder.path / ".carry", ignore_errors=True)


def _files(folder: Path) -> dict[str, int]:
    """The files below a folder with their time of change in ns."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and path != folder / PART
    }
