"""``orch run``: check the hosts, sync, launch, stream, restart, collect and summarise."""

from __future__ import annotations

from contextlib import closing

from orchestrator.core.inventory.target import Target
from orchestrator.operations.afterwards import Afterwards
from orchestrator.operations.cluster import open_cluster
from orchestrator.operations.notifying import Notifier
from orchestrator.operations.run.options import RunOptions
from orchestrator.operations.run.running import launch_run, see_through
from orchestrator.ui.display import Display


def run(target: Target, options: RunOptions, display: Display) -> int:
    """Run a workload to its end, and return the exit code. Raises OrchError if the run cannot start."""
    afterwards = Afterwards(options.then, display, detach=options.detach)
    notifier = Notifier(options.notify, display, detach=options.detach)
    with (
        notifier.telling(options.spec.workload.name, options.name),
        afterwards.expected(),
        open_cluster(target, interpreters=True) as opened,
        closing(launch_run(opened, options, display, notifier.heard)) as live,
    ):
        notifier.follow(live, options.name)
        code = see_through(live, display)
    return afterwards.run(live, code)
