"""``orch run``: preflight, sync, launch, stream, restart, collect, summary."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing

from orchestrator.core.checks.facts import Facts
from orchestrator.core.inventory.target import Target
from orchestrator.core.run.actions import Finish
from orchestrator.core.run.machine import starting
from orchestrator.core.run.policy import Grace, Policy, grace_of
from orchestrator.engine.engine import Engine
from orchestrator.engine.signals import obeying_signals
from orchestrator.errors import HostErrors
from orchestrator.local.run_folder import RunFolder
from orchestrator.operations.asked import RunOptions
from orchestrator.operations.cluster import open_cluster
from orchestrator.operations.launching import prepare, push
from orchestrator.operations.recording import Recording
from orchestrator.operations.restarting import Restarting
from orchestrator.ui.display import Display
from orchestrator.ui.plan import show_settings
from orchestrator.ui.run import RunDisplay

LAST_LINES = 20


def run(target: Target, options: RunOptions, display: Display) -> int:
    """Do it all; returns the exit code."""
    with open_cluster(target, interpreters=True) as opened:
        prepared = prepare(opened, options, display)
        made = prepared.plan
        show_settings(display, made, environments(prepared.facts))
        push(prepared, opened.fanout, display, sync=options.sync)
        with closing(RunFolder.create(options.runs_dir, made)) as folder:
            grace = grace_of(opened.inventory.grace, options.grace)
            errands = Restarting(opened, options, prepared, grace, folder, display)
            first = starting(
                policy_of(options, grace),
                [node.node for node in made.nodes],
                time.time(),
                min_nodes=made.min_nodes,
            )
            recording = Recording(folder, made.spec.workload.name, display)
            engine = Engine(first, errands.clients(), errands, recording)
            with obeying_signals(engine, grace):
                last = engine.run()
            return concluded(last, folder, len(made.nodes), display)


def policy_of(options: RunOptions, grace: Grace) -> Policy:
    """What the options want of the run."""
    return Policy(
        node_timeout=options.node_timeout,
        grace=grace,
        limit=options.limit,
        collect_every=options.collect_every,
        max_restarts=options.max_restarts,
        detach=options.detach,
    )


def concluded(last: Finish, folder: RunFolder, hosts: int, display: Display) -> int:
    """Show how a run ended or was left; the exit code. Raises HostErrors if it never began."""
    if last.exit_code is None:
        if last.refusals:
            raise HostErrors(list(last.refusals), hosts)
        RunDisplay(display).detached(folder.path.name)
        return 0
    found = last.found
    lines = folder.last_lines(found.node, found.rank, LAST_LINES) if found and found.show_log else []
    RunDisplay(display).summary(folder.result(), folder.path, found, lines)
    return last.exit_code


def environments(facts: Mapping[str, Facts]) -> list[str]:
    """The interpreters in use, equal ones named once."""
    users: dict[str, list[str]] = {}
    for name, known in facts.items():
        python = known.python
        users.setdefault(f"{python.path} (Python {python.version}, torch {python.torch})", []).append(name)
    if len(users) == 1:
        return list(users)
    return [f"{', '.join(names)}: {python}" for python, names in users.items()]
