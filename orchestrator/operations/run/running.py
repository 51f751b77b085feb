"""Runs that this process sees to their end: launched here, or taken over from another control process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.core.checks.facts import Facts
from orchestrator.core.run.machine import following, starting
from orchestrator.core.run.policy import REPORT, RESTART, Grace, Policy, grace_of
from orchestrator.engine.engine import Engine
from orchestrator.engine.signals import obeying_signals
from orchestrator.errors import CLOSED_PIPE, HostErrors, OrchError, UsageError
from orchestrator.local.run_folder import RunFolder
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.delivery.run_data import deliver_data
from orchestrator.operations.history.writing import asking_git, keep_record
from orchestrator.operations.run.aftermath import CollectingErrands
from orchestrator.operations.run.launching import prepare, push
from orchestrator.operations.run.members import find_members, record_attach
from orchestrator.operations.run.options import RunOptions
from orchestrator.operations.run.recording import Hearer, Recording, ignore
from orchestrator.operations.run.restarting import AttemptErrands
from orchestrator.protocol.run import Follow
from orchestrator.remote.node_client import SshNodeClient
from orchestrator.ui.display import Display
from orchestrator.ui.plan import show_settings
from orchestrator.ui.run import RunDisplay

# How much of the earlier part of a log is shown, in bytes.
TAIL = 64 * 1024
# How many lines of the blamed rank a summary ends with.
LAST_LINES = 20


@dataclass(frozen=True)
class Live:
    """A run with its engine, not yet running, and its record. ``nodes`` is the number of its nodes."""

    run_id: str
    engine: Engine
    recording: Recording
    folder: RunFolder
    grace: Grace
    nodes: int

    def close(self) -> None:
        """Close the folder's files."""
        self.folder.close()


def launch_run(opened: OpenCluster, options: RunOptions, display: Display, heard: Hearer = ignore) -> Live:
    """Prepare a run and create its folder. The engine of the result starts the run. Raises OrchError.

    With a scheduler, submit a job and wait for its nodes; then the engine follows the run that Slurm starts.
    """
    if options.on_hang == RESTART and not options.max_restarts:
        raise UsageError("--on-hang restart starts the run again, which --max-restarts N allows", remedy="add it")
    if options.detach and options.on_hang != REPORT:
        raise UsageError(
            f"--detach and --on-hang {options.on_hang} exclude each other: only a control process ends a run",
            remedy="leave --detach out and start orch in tmux, or pass --on-hang to orch attach",
        )
    if opened.inventory.scheduler is not None:
        from orchestrator.operations.slurm.running import launch_job

        return launch_job(opened, opened.inventory.scheduler, options, display, heard)
    if options.detach and options.max_restarts:
        raise UsageError(
            "--detach and --max-restarts exclude each other: only a control process can start a failed run again",
            remedy="leave --detach out and start orch in tmux, or with nohup",
        )
    with asking_git(options.source.root) as git:
        prepared = prepare(opened, options, display)
        made, interpreters = prepared.plan, environments(prepared.facts)
        show_settings(display, made, interpreters)
        lineup, facts = prepared.lineup, prepared.facts
        data = deliver_data(opened, prepared.data, lineup.nodes, facts, options, options.agree, display)
        prepared = replace(prepared, data=data)
        push(prepared, opened.fanout, display, sync=options.sync)
    folder = RunFolder.create(options.runs_dir, made)
    code = prepared.trees[lineup.nodes[0].name][0]
    keep_record(folder, opened, options, made, code, git, interpreters, display)
    grace = grace_of(opened.inventory.grace, options.grace)
    errands = AttemptErrands(opened, options, prepared, grace, folder, display)
    policy = Policy(
        node_timeout=options.node_timeout,
        grace=grace,
        limit=options.limit,
        collect_every=options.collect_every,
        max_restarts=options.max_restarts,
        detach=options.detach,
        on_hang=options.on_hang,
    )
    first = starting(policy, [node.node for node in made.nodes], time.time(), min_nodes=made.min_nodes)
    recording = Recording(folder, made.spec.workload.name, display, heard)
    engine = Engine(first, errands.clients(), errands, recording)
    recording.left = engine.leave
    return Live(made.run_id, engine, recording, folder, grace, len(made.nodes))


def attach_run(
    opened: OpenCluster,
    run_id: str | None,
    runs_dir: Path,
    node_timeout: float,
    display: Display,
    *,
    from_start: bool = False,
    on_hang: str = REPORT,
    heard: Hearer = ignore,
) -> Live:
    """Take over a run, from what ``runs_dir`` has recorded of it; with ``run_id`` None, the only active one.

    Logs that are not recorded here yet begin with their last ``TAIL`` bytes, unless ``from_start``.
    Raises OrchError.
    """
    if opened.inventory.scheduler is not None:
        from orchestrator.operations.slurm.running import attach_job

        return attach_job(opened, run_id, runs_dir, node_timeout, display, from_start, on_hang, heard)
    members = find_members(opened, run_id, display)
    first = members[0].run
    folder = RunFolder.open(runs_dir, first.run_id)
    offsets = record_attach(folder, members)
    if not folder.writing:
        display.note(f"another orch process records this run in {folder.path}; this one only shows it")
    grace = grace_of(opened.inventory.grace)
    request = Follow(run_id=first.run_id, attempt=first.attempt, tail=None if from_start else TAIL)
    clients = {
        each.node.name: SshNodeClient(
            each.node, request.replace(offsets=dict(offsets.get(each.node.name, {}))), node_timeout
        )
        for each in members
    }
    nodes = {each.node.name: each.node for each in members}
    errands = CollectingErrands(nodes, opened.inventory.outputs, folder, display, opened)
    recording = Recording(folder, first.workload, display, heard)
    recording.begun(first.attempt, tuple(clients))
    recording.shown.recall(folder.events)
    policy = Policy(node_timeout=node_timeout, grace=grace, records=folder.writing, on_hang=on_hang)
    engine = Engine(following(policy, clients, first.attempt, folder.result()), clients, errands, recording)
    recording.left = engine.leave
    return Live(first.run_id, engine, recording, folder, grace, len(members))


def see_through(live: Live, display: Display) -> int:
    """See a run to its end, obeying signals. Show how it ended or was left, and return the exit code.

    Raises HostErrors if no attempt could start.
    """
    with obeying_signals(live.engine, live.grace):
        last = live.engine.run()
    shown = RunDisplay(display)
    if last.exit_code is None:
        if last.refusals:
            raise HostErrors(list(last.refusals), live.nodes)
        if live.recording.unread:
            display.error(unread(live.run_id))
            return CLOSED_PIPE
        shown.detached(live.run_id)
        return 0
    found = last.found
    lines = live.folder.last_lines(found.node, found.rank, LAST_LINES) if found and found.show_log else []
    shown.summary(live.folder.result(), live.folder.path, found, lines)
    return last.exit_code


def unread(run_id: str) -> OrchError:
    """Return the error of a command whose output nobody reads any more, while its run goes on."""
    return OrchError(
        f"nobody reads the output any more (as after | head); run {run_id} goes on",
        remedy=f"orch attach {run_id} takes it over, orch stop {run_id} ends it",
    )


def environments(facts: Mapping[str, Facts]) -> list[str]:
    """Return the interpreters in use, each with its nodes if there are several."""
    users: dict[str, list[str]] = {}
    for name, known in facts.items():
        python = known.python
        users.setdefault(f"{python.path} (Python {python.version}, torch {python.torch})", []).append(name)
    if len(users) == 1:
        return list(users)
    return [f"{', '.join(names)}: {python}" for python, names in users.items()]
