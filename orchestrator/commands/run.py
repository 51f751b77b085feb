"""``orch run``: preflight, sync, launch, stream, restart, collect, summary."""

from __future__ import annotations

from contextlib import closing

from orchestrator.core.inventory.target import Target
from orchestrator.engine.signals import obeying_signals
from orchestrator.operations.cluster import open_cluster
from orchestrator.operations.run.asked import RunOptions
from orchestrator.operations.run.running import conclude_run, launch_run
from orchestrator.ui.display import Display


def run(target: Target, options: RunOptions, display: Display) -> int:
    """Do it all; returns the exit code. Raises OrchError if it cannot begin."""
    with (
        open_cluster(target, interpreters=True) as opened,
        closing(launch_run(opened, options, display)) as live,
    ):
        with obeying_signals(live.engine, live.grace):
            last = live.engine.run()
        return conclude_run(live, last, display)
