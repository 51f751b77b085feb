"""``orch run``, ``orch plan``: preflight, sync, launch, stream, restart, collect, summary."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace

from orchestrator.commands.prepare import (
    Prepared,
    RunOptions,
    earlier_outputs,
    new_run_id,
    planned,
    prepare,
    push,
    start_requests,
)
from orchestrator.commands.restart import carried_outputs, forget_carried, next_lineup
from orchestrator.commands.session import (
    Session,
    Target,
    environments_of,
    in_their_environments,
    read_inventory,
    session,
)
from orchestrator.commands.watch import Collector, Grace, conclude, explain, grace_of, stopping_on_signals, watch
from orchestrator.core.facts import Facts
from orchestrator.core.inventory import select
from orchestrator.core.plan import LaunchPlan, assumed_facts, plan
from orchestrator.display import Display
from orchestrator.errors import HostErrors, OrchError
from orchestrator.protocol.events import Detached, NodeLost
from orchestrator.remote.gang import Gang
from orchestrator.rundir import RunFolder


def run(target: Target, options: RunOptions, display: Display) -> int:
    """Do it all; returns the exit code."""
    with session(target, interpreters=True) as opened:
        prepared = prepare(opened, options, display)
        display.settings(prepared.plan, environments(prepared.facts))
        push(prepared, opened.fanout, display, sync=options.sync)
        with closing(RunFolder.create(options.runs_dir, prepared.plan)) as folder:
            gangs: list[Gang] = []
            while True:
                try:
                    gang = attempt(opened, options, prepared, folder, display)
                except HostErrors as error:
                    if prepared.plan.attempt == 1:
                        raise
                    # The attempts before it have something to tell, and there may be further ones.
                    refused(error, folder, display)
                    gang = None
                if gang is not None:
                    gangs.append(gang)
                # An earlier attempt's lost node may have been reached again, and fenced, meanwhile.
                for event in [event for each in gangs for event in each.late_events()]:
                    folder.record(event)
                    display.event(event)
                if gang is not None and gang.left:
                    return left_running(folder, prepared.plan.run_id, display)
                again = next_attempt(opened, options, prepared, folder, display)
                if again is None:
                    return conclude(folder, display)
                prepared = again


def refused(error: HostErrors, folder: RunFolder, display: Display) -> None:
    """Hosts that would not start an attempt count as lost for it."""
    display.error(error)
    for each in error.errors:
        if each.host is not None:
            folder.record(NodeLost(time=time.time(), node=each.host, reason=each.message))


def next_attempt(
    opened: Session, options: RunOptions, before: Prepared, folder: RunFolder, display: Display
) -> Prepared | None:
    """What ``prepare_again`` says; hosts that fail meanwhile are given up, and it is tried without them."""
    while True:
        try:
            return prepare_again(opened, options, before, folder, display)
        except OrchError as error:
            display.error(error)
            blamed = {each.host for each in (error.errors if isinstance(error, HostErrors) else [error])}
            new = {name for name in blamed if name is not None} - opened.given_up
            if not new:
                return None
            opened.given_up.update(new)


def attempt(opened: Session, options: RunOptions, prepared: Prepared, folder: RunFolder, display: Display) -> Gang:
    """One attempt from its start to the collection of what it wrote; ``left`` is set if it goes on without us."""
    made, nodes = prepared.plan, prepared.lineup.nodes
    gang = Gang(nodes, made.run_id, made.attempt, options.node_timeout)
    folder.begin([node.name for node in nodes], made.attempt, made.min_nodes)
    outputs = opened.inventory.outputs
    collector = Collector(nodes, made.run_id, outputs, folder)
    view = display.attempt(made.run_id, made.spec.workload.name, made.attempt, [node.name for node in nodes])
    grace = grace_of(opened.inventory, options.grace)
    with view, stopping_on_signals(gang, grace):
        if refusals := gang.start(start_requests(prepared, options, grace.stop, outputs.max_log)):
            raise HostErrors(refusals, len(nodes))
        if options.detach:
            gang.leave()
        with collector.every(options.collect_every, display), limited(gang, options.limit, grace):
            watch(gang, folder, display, grace)
    if not gang.left:
        collector.finish(display)
    return gang


@contextmanager
def limited(gang: Gang, seconds: float | None, grace: Grace) -> Iterator[None]:
    """Stop the run if it takes longer than that."""
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, gang.stop, (f"it took longer than {seconds:g} s", grace.stop))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def left_running(folder: RunFolder, run_id: str, display: Display) -> int:
    """Say how to come back to a run that goes on."""
    folder.record(Detached(time=time.time()))
    display.detached(run_id)
    return 0


def preview(target: Target, options: RunOptions, display: Display, *, offline: bool) -> LaunchPlan:
    """The plan that ``run`` would make, started nowhere. ``offline`` asks no node and assumes the rest."""
    if offline:
        inventory = read_inventory(target.hosts_file)
        named = select(inventory, target.nodes)
        chosen = in_their_environments(named, environments_of(named, target.hosts_file.parent))
        # With nobody asked, the address that SSH dials is the best guess at the one to meet at.
        hosts = [replace(host, fabric_address=host.fabric_address or host.address) for host in chosen]
        facts = {host.name: assumed_facts(host) for host in hosts}
        made = plan(hosts, inventory.rendezvous, options.spec, facts, new_run_id())
        note = "no node was asked: port, interpreter and number of GPUs are assumed, addresses are the inventory's"
        return replace(made, notes=(*made.notes, note))
    with session(target, interpreters=True) as opened:
        return prepare(opened, options, display).plan


def prepare_again(
    opened: Session, options: RunOptions, before: Prepared, folder: RunFolder, display: Display
) -> Prepared | None:
    """The next attempt of a run that failed, its trees on all nodes; None if there is to be none."""
    result = folder.result()
    if result.ok or result.stopped_by_user or not result.failures or before.plan.attempt > options.max_restarts:
        return None
    found = explain(folder)
    if found is not None:
        display.diagnosis(found)
    lineup = next_lineup(opened, before.lineup, result, display)
    if lineup is None:
        return None
    code = before.trees[before.lineup.hosts[0].name][0]
    earlier = earlier_outputs(options, list(lineup.new))
    carried = carried_outputs(folder, [host.name for host in before.lineup.hosts], lineup, display)
    trees = {host.name: [code, *earlier.get(host.name, ()), *carried.get(host.name, ())] for host in lineup.hosts}
    made = before.plan
    prepared = planned(opened, options, lineup, trees, made.run_id, made.attempt + 1, display)
    push(prepared, opened.fanout, display)
    forget_carried(folder)
    folder.keep_plan(prepared.plan)
    return prepared


def environments(facts: Mapping[str, Facts]) -> list[str]:
    """The interpreters in use, equal ones named once."""
    users: dict[str, list[str]] = {}
    for name, known in facts.items():
        python = known.python
        users.setdefault(f"{python.path} (Python {python.version}, torch {python.torch})", []).append(name)
    if len(users) == 1:
        return list(users)
    return [f"{', '.join(names)}: {python}" for python, names in users.items()]
