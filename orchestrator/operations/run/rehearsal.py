"""A short real run, with which ``orch doctor --deep`` finds problems that no check covers."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestrator.core.inventory.target import Target
from orchestrator.core.launch.plan import RunSpec
from orchestrator.operations.cluster import open_cluster
from orchestrator.operations.run.options import RunOptions
from orchestrator.operations.run.running import launch_run, see_through
from orchestrator.operations.run.source import resolve
from orchestrator.ui.display import Display

# Longest duration of a rehearsal, in seconds.
LIMIT = 60.0


def rehearse(target: Target, backend: str, port: int | None, display: Display) -> int:
    """Run an all-reduce under torchrun on the target's hosts, without spares, and return the run's exit code."""
    source = resolve("allreduce-bench")
    args = ("--collectives", "all-reduce", "--sizes", "1K", "16M")
    spec = RunSpec(workload=source.workload, args=args, backend=backend, port=port)
    with TemporaryDirectory() as folder, open_cluster(target, interpreters=True) as opened:
        options = RunOptions(spec, source, Path(folder), check=False, limit=LIMIT, data=False)
        with closing(launch_run(opened, options, display)) as live:
            return see_through(live, display)
