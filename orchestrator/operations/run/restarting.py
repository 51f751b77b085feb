"""Further attempts of a failed run: spares replace lost nodes, and a new rank 0 gets the newest snapshot."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.core.inventory.hosts import Host
from orchestrator.core.run.actions import Prepare
from orchestrator.core.run.inputs import NotPrepared
from orchestrator.core.run.inputs import Prepared as Ready
from orchestrator.core.run.lineup import replacements
from orchestrator.core.run.policy import Grace
from orchestrator.core.run.result import RunResult
from orchestrator.core.text.counted import counted
from orchestrator.core.transfer.local_tree import LocalTree, hash_tree
from orchestrator.engine import engine
from orchestrator.errors import HostErrors, OrchError
from orchestrator.local.run_folder import RunFolder
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.delivery.run_data import deliver_data
from orchestrator.operations.run.aftermath import CollectingErrands
from orchestrator.operations.run.launching import (
    Lineup,
    PreparedAttempt,
    earlier_outputs,
    planned,
    push,
    start_requests,
)
from orchestrator.operations.run.options import RunOptions
from orchestrator.protocol.events import Carried, Event, NotCarried
from orchestrator.protocol.run import Follow, ListRuns, RunsHere
from orchestrator.remote.landing import PART
from orchestrator.remote.node import Node
from orchestrator.remote.node_client import SshNodeClient
from orchestrator.ui.display import Display
from orchestrator.ui.run import RunDisplay

# Timeout for a host's list of runs, in seconds.
ASK_LIMIT = 20.0


class AttemptErrands(CollectingErrands):
    """The errands of a run that may have further attempts."""

    def __init__(
        self,
        opened: OpenCluster,
        options: RunOptions,
        prepared: PreparedAttempt,
        grace: Grace,
        folder: RunFolder,
        display: Display,
    ) -> None:
        nodes = {node.name: node for node in prepared.lineup.nodes}
        super().__init__(nodes, opened.inventory.outputs, folder, display, opened)
        self.opened = opened
        self.options = options
        self.prepared = prepared
        self.grace = grace
        # Hosts that did not answer when a lost node was to be replaced.
        self._silent: set[str] = set()

    def clients(self) -> dict[str, engine.NodeClient]:
        """Return a client for each node of the prepared attempt."""
        made, timeout = self.prepared.plan, self.options.node_timeout
        requests = start_requests(self.prepared, self.options, self.grace.stop, self.outputs.max_log)
        request = Follow(run_id=made.run_id, attempt=made.attempt)
        return {
            node.name: SshNodeClient(node, request, timeout, requests[node.name])
            for node in self.prepared.lineup.nodes
        }

    def prepare(
        self, order: Prepare, result: RunResult, note: Callable[[Event], None]
    ) -> engine.Ready | NotPrepared:
        """Replace lost nodes, and bring every node of the next attempt what it needs."""
        if order.found is not None:
            RunDisplay(self.display).diagnosis(order.found)
        try:
            lineup = self._lineup(order, result)
            if lineup is None:
                return NotPrepared(order.attempt)
            self._prepare(lineup, result, note)
        except OrchError as error:
            self.display.error(error)
            blamed = {each.host for each in (error.errors if isinstance(error, HostErrors) else [error])}
            return NotPrepared(order.attempt, tuple(sorted(name for name in blamed if name is not None)))
        self.nodes.update({node.name: node for node in lineup.nodes})
        names = tuple(host.name for host in lineup.hosts)
        return Ready(order.attempt, names, self.prepared.plan.min_nodes), self.clients()

    def _prepare(self, lineup: Lineup, result: RunResult, note: Callable[[Event], None]) -> None:
        before = self.prepared
        code = before.trees[before.lineup.hosts[0].name][0]
        names = [host.name for host in before.lineup.hosts]
        earlier = earlier_outputs(self.options, list(lineup.new))
        carried = carried_outputs(self.folder, names, lineup, result, note, self.display)
        trees = {
            host.name: [code, *earlier.get(host.name, ()), *carried.get(host.name, ())] for host in lineup.hosts
        }
        made, data = before.plan, before.data
        prepared = planned(
            self.opened, self.options, lineup, trees, data, made.run_id, made.attempt + 1, self.display
        )
        # In the middle of a run nobody is asked: what the user agreed to is sent, and other data are refused.
        options = replace(self.options, sync=True)
        deliver_data(self.opened, data, lineup.nodes, prepared.facts, options, None, self.display)
        push(prepared, self.opened.fanout, self.display)
        forget_carried(self.folder)
        self.folder.keep_plan(prepared.plan)
        self.prepared = prepared

    def _lineup(self, order: Prepare, result: RunResult) -> Lineup | None:
        """Return the surviving nodes in their order, then replacements for lost ones; None if too few."""
        before = self.prepared.lineup
        nodes = {node.name: node for node in before.nodes}
        hosts = {host.name: host for host in (*self.opened.all_hosts, *before.hosts)}
        chosen = [(hosts[name], nodes[name]) for name in order.survivors]
        order_of_trial = replacements(
            [host.name for host in self.opened.hosts],
            [host.name for host, _ in self.opened.spares],
            [host.name for host in before.hosts],
            result.lost,
            order.given_up | self._silent,
        )
        new: list[str] = []
        for name in order_of_trial:
            if len(new) == order.missing:
                break
            node = self._taken(hosts[name], result.lost)
            if node is not None:
                chosen.append((hosts[name], node))
                new.append(name)
        if len(new) < order.missing:
            lost = ", ".join(result.lost)
            self.display.note(
                f"no spare is left for {lost}: no further attempt starts (add hosts to spares: in the inventory)"
            )
            return None
        return Lineup(tuple(host for host, _ in chosen), tuple(node for _, node in chosen), tuple(new))

    def _taken(self, host: Host, lost: Sequence[str]) -> Node | None:
        """Return the node of a host that answers and runs nothing; None, with a message, for any other."""
        link = self.opened.link(host.name)
        node = Node(link)
        try:
            link.reopen(link.settings.connect_timeout)
            if host.name in self.nodes:
                # The host had a part in this run: end what is left there.
                node.stop(self.prepared.plan.run_id, 0.0)
            held = node.ask(ListRuns(run_id=None, ended=False), RunsHere.from_wire, ASK_LIMIT).runs
        except OrchError as error:
            self._silent.add(host.name)
            self.display.note(f"in the place of {', '.join(lost)}: {error}")
            return None
        if held:
            self.display.note(f"in the place of {', '.join(lost)}: {host.name} is busy with {held[0].run_id}")
            return None
        return node


def carried_outputs(
    folder: RunFolder,
    before: Sequence[str],
    lineup: Lineup,
    result: RunResult,
    note: Callable[[Event], None],
    display: Display,
) -> dict[str, list[LocalTree]]:
    """Return, for each node that must get newer versions of files, a tree of these files.

    Rank 0, if it has changed, and every new node get the newest version of each file that any node wrote.
    ``before`` are the nodes of the previous attempt. The files must have been collected before.
    """
    first = lineup.hosts[0].name
    takers = [name for name in dict.fromkeys((first, *lineup.new)) if name != before[0]]
    newest: dict[str, tuple[int, str]] = {}
    for node in {*before, *(host.name for host in lineup.hosts)}:
        for path, changed in _files(folder.node_folder(node)).items():
            newest[path] = max(newest.get(path, (0, "")), (changed, node))
    trees: dict[str, list[LocalTree]] = {}
    for name in takers:
        own = _files(folder.node_folder(name))
        lacking = {path: about for path, about in newest.items() if own.get(path, -1) < about[0]}
        if not lacking:
            continue
        target = folder.path / ".carry" / f"attempt{result.attempt + 1}" / name
        for path, (_, node) in lacking.items():
            there = target / path
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder.node_folder(node) / path, there)
        trees[name] = [hash_tree(target, obey_ignore_files=False)]
        sources = sorted({node for _, node in lacking.values()})
        note(Carried(time=time.time(), node=name, files=tuple(sorted(lacking)), sources=tuple(sources)))
        display.note(f"{name}: gets {counted(len(lacking), 'file')} that {', '.join(sources)} wrote")
    for node in before:
        known = result.nodes[node]
        if node not in {host.name for host in lineup.hosts} and not _files(folder.node_folder(node)):
            why = (
                f": {known.uncollected}"
                if known.uncollected
                else "; with --collect-every SECONDS, orch fetches files during a run"
            )
            display.note(f"{node} is lost together with the files that it wrote{why}")
        elif takers and known.lacking:
            missing = f"{', '.join(takers)}: starts without the newest snapshot of {node}, {known.lacking}"
            note(NotCarried(time=time.time(), node=takers[0], path=known.lacking, source=node))
            display.note(missing)
    return trees


def forget_carried(folder: RunFolder) -> None:
    """Remove the local copies of carried files, once the files are on their nodes."""
    shutil.rmtree(folder.path / ".carry", ignore_errors=True)


def _files(folder: Path) -> dict[str, int]:
    """Return the files below a folder with their modification times in nanoseconds."""
    return {
        str(path.relative_to(folder)): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and path != folder / PART
    }
