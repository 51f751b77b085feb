"""``orch attach``: take over a run, from any machine that reaches its nodes, and see it to its end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from orchestrator.core.inventory.target import Target
from orchestrator.local.history.runs import read_record
from orchestrator.operations.afterwards import Afterwards
from orchestrator.operations.cluster import open_cluster
from orchestrator.operations.notifying import Notifier
from orchestrator.operations.run.running import attach_run, see_through
from orchestrator.ui.display import Display


def attach(
    target: Target,
    run_id: str | None,
    runs_dir: Path,
    node_timeout: float,
    from_start: bool,
    on_hang: str,
    then: str | None,
    notify: Sequence[str],
    display: Display,
) -> int:
    """Follow a run to its end, and return its exit code. Show and collect a run that has already ended, too."""
    afterwards = Afterwards(then, display)
    notifier = Notifier(notify, display)
    with (
        notifier.telling(),
        afterwards.expected(),
        open_cluster(target, spares_too=True) as opened,
        closing(
            attach_run(
                opened,
                run_id,
                runs_dir,
                node_timeout,
                display,
                from_start=from_start,
                on_hang=on_hang,
                heard=notifier.heard,
            )
        ) as live,
    ):
        record = read_record(live.folder.path)
        notifier.follow(live, None if record is None else record.name)
        code = see_through(live, display)
    return afterwards.run(live, code)
