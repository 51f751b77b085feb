"""``orch sync``: the project folder on every node, verified by hash; or what would have to happen for that."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from orchestrator.core.inventory.hostrange import folded
from orchestrator.core.inventory.hosts import DataSource
from orchestrator.core.inventory.target import Target
from orchestrator.core.transfer.data import parse_data
from orchestrator.core.transfer.snapshot import Difference, Snapshot, difference, take
from orchestrator.errors import HostErrors, OrchError, SyncError
from orchestrator.local.datasets import KNOWN
from orchestrator.operations.cluster import OpenCluster, open_cluster
from orchestrator.operations.consent import Agree, agreed_to, outside
from orchestrator.operations.data import missing_data, send_data
from orchestrator.operations.environments import ensure, lacking
from orchestrator.operations.pushing import connected_with, push_tree
from orchestrator.operations.source import project_name, project_of
from orchestrator.protocol.transfer import ListUsed, Prune, Pruned, Used, Verified, Verify
from orchestrator.remote.fanout import failures, on_all
from orchestrator.remote.node import Node
from orchestrator.remote.store import SILENCE, Push
from orchestrator.ui.answers import show_compared
from orchestrator.ui.display import Display


@dataclass(frozen=True)
class SyncOptions:
    """What ``orch sync`` was asked for. ``keep``: how many of the newest trees stay when it prunes.

    ``data``: ``PATH[:PATH on the nodes]`` beside what the inventory names, at most ``rate`` bytes a second.
    ``offline``: the nodes get the wheels of their environments from here without being asked what they reach.
    ``agree`` is asked before data from outside the project go; None: nobody can be.
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


def sync(target: Target, options: SyncOptions, display: Display) -> int:
    """Bring every host up to date, or compare; returns 0, with ``check`` 5 if a host differs.

    Raises HostErrors.
    """
    root = (options.project or project_of(Path.cwd())).resolve()
    with open_cluster(target, interpreters=True) as opened:
        with display.stage(f"connecting to {len(opened.hosts)} hosts"):
            snapshot, nodes = connected_with(opened, root)
        if options.prune:
            return prune(opened, nodes, options, display)
        if options.check or options.dry_run:
            found = compare(opened, nodes, snapshot, options, target.hosts_file.parent, display)
            return SyncError.exit_code if options.check and any(found.values()) else 0
        data = wanted_data(opened, target.hosts_file.parent, options)
        deliver(opened, nodes, snapshot, display)
        ensure(opened, nodes, display, offline=options.offline)
        for source in data:
            send_data(opened, nodes, source, options.rate, display)
        if options.watch:
            follow(opened, nodes, snapshot, display)
    return 0


def wanted_data(opened: OpenCluster, beside: Path, options: SyncOptions) -> list[DataSource]:
    """What the inventory names, by paths relative to its file, and what the command line does."""
    of_inventory = [
        each if each.path in KNOWN else replace(each, path=str(beside / Path(each.path).expanduser()))
        for each in opened.inventory.data
    ]
    agreed_to(outside(beside, of_inventory), beside / opened.inventory.source, options.agree)
    return [*of_inventory, *(parse_data(text, Path(text).exists()) for text in options.data)]


def deliver(opened: OpenCluster, nodes: Sequence[Node], snapshot: Snapshot, display: Display) -> None:
    """Push the tree to the hosts that lack it; raises HostErrors."""
    project, workdirs = project_name(snapshot.root), {host.name: host.workdir for host in opened.hosts}

    def there(node: Node) -> bool:
        return node.has_tree(workdirs[node.name], project, snapshot.tree_id)

    files, size = len(snapshot.entries), f"{snapshot.size / 1e6:.1f} MB"
    with display.stage(f"syncing {snapshot.root}: {files} files, {size}") as stage:
        known = on_all(nodes, there, limit=opened.fanout)
        if errors := failures(known):
            raise HostErrors(errors, len(nodes))
        absent = [node for node, has in zip(nodes, known, strict=True) if not has]
        stage.result = "every host has it"
        if absent:
            pushed = push_tree(absent, workdirs, project, snapshot, opened.fanout, display)
            stage.result = f"sent {pushed.size:,} bytes to {len(pushed.sent)} of {len(nodes)} hosts"
            if pushed.through:
                stage.result += f"; {len(pushed.through)} share a disk with one of them"
    display.write(f"tree {snapshot.tree_id} is on {len(nodes)} hosts\n")


def compare(
    opened: OpenCluster,
    nodes: Sequence[Node],
    snapshot: Snapshot,
    options: SyncOptions,
    beside: Path,
    display: Display,
) -> dict[str, list[str]]:
    """Print what each host has otherwise, and write nothing there; the lines of each host.

    With ``options.check`` the hosts read their code again: what was changed there since is found, too.
    """
    project, workdirs = project_name(snapshot.root), {host.name: host.workdir for host in opened.hosts}

    def look(node: Node) -> list[str]:
        workdir = workdirs[node.name]
        push = Push(node, workdir, project, snapshot, look=True)
        push.close()
        if not push.have:
            return differing(push.difference)
        if not options.check:
            return []
        request = Verify(workdir=workdir, project=project, tree=snapshot.tree_id)
        return damaged(node.ask(request, Verified.from_wire, SILENCE, scale=8))

    with display.stage(f"comparing {len(snapshot.entries)} files with {len(nodes)} hosts"):
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
    show_compared(display, found, snapshot.tree_id)
    return found


def differing(change: Difference) -> list[str]:
    """A line for each file that would be sent or go."""
    return [
        *(f"+ {shown(entry.path)} ({entry.size} bytes)" for entry in change.added),
        *(f"~ {shown(entry.path)} ({entry.size} bytes)" for entry in change.changed),
        *(f"- {shown(path)}" for path in change.removed),
    ]


def damaged(answer: Verified) -> list[str]:
    """A line for each file that was changed on a host since it was synced."""
    return [
        *(f"! {shown(path)} was changed there" for path in answer.changed),
        *(f"! {shown(path)} was removed there" for path in answer.missing),
        *(f"! {shown(path)} was added there" for path in answer.added),
    ]


def shown(path: str) -> str:
    """A path for a terminal: one with control characters or undecodable bytes as Python writes it."""
    return path if path.isprintable() else repr(path)


def prune(opened: OpenCluster, nodes: Sequence[Node], options: SyncOptions, display: Display) -> int:
    """Remove what no run uses from every host; raises HostErrors."""
    workdirs = {host.name: host.workdir for host in opened.hosts}

    asked = on_all(nodes, lambda node: node.ask(ListUsed(), Used.from_wire, SILENCE).used, limit=opened.fanout)
    if errors := failures(asked):
        raise HostErrors(errors, len(nodes))
    used = sorted({name for names in asked if not isinstance(names, OrchError) for name in names})

    def tidy(node: Node) -> Pruned:
        request = Prune(workdir=workdirs[node.name], keep=options.keep, runs=options.runs, used=tuple(used))
        return node.ask(request, Pruned.from_wire, SILENCE)

    outcomes = on_all(nodes, tidy, limit=opened.fanout)
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


def follow(opened: OpenCluster, nodes: Sequence[Node], snapshot: Snapshot, display: Display) -> None:
    """Push on every save, until Ctrl-C. A push that fails is told, and the next save tries again.

    Raises KeyboardInterrupt, after the push that goes on; at once at the second Ctrl-C.
    """
    root = snapshot.root
    display.note(f"watching {root}; Ctrl-C ends it")
    for _ in saves(root):
        try:
            now = take(root)
            if now.tree_id == snapshot.tree_id:
                continue
            change = difference(snapshot.entries, now.entries)
            display.note(", ".join(line for line in differing(change)[:5]))
            on_all([node.connection for node in nodes if not node.connection.alive], lambda link: link.open())
            deliver(opened, nodes, now, display)
            snapshot = now
        except OrchError as error:
            display.error(error)


def saves(root: Path) -> Iterator[object]:
    """Once for every save below a folder; raises KeyboardInterrupt between two of them."""
    from watchfiles import DefaultFilter, watch  # takes a while, and only --watch needs it

    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        # An exception raised at any place may be lost in a callback; an event is not.
        stopped.set()
        signal.signal(signal.SIGINT, usual)

    usual = signal.signal(signal.SIGINT, stop)
    try:
        yield from watch(root, watch_filter=DefaultFilter(), stop_event=stopped, raise_interrupt=False)
    finally:
        signal.signal(signal.SIGINT, usual)
    raise KeyboardInterrupt
