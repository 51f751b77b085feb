"""``orch sync``: bring code, environments and data to every host, or show what differs there."""

from __future__ import annotations

from pathlib import Path

from orchestrator.core.inventory.target import Target
from orchestrator.core.text.counted import counted
from orchestrator.errors import SyncError
from orchestrator.operations.cluster import open_cluster
from orchestrator.operations.delivery.data import send_data
from orchestrator.operations.delivery.environments import ensure
from orchestrator.operations.delivery.images import ensure_images
from orchestrator.operations.delivery.on_save import push_on_save
from orchestrator.operations.delivery.pruning import prune
from orchestrator.operations.delivery.pushing import connected_with
from orchestrator.operations.delivery.syncing import SyncOptions, compare, deliver, wanted_data
from orchestrator.operations.run.source import project_of
from orchestrator.ui.display import Display


def sync(target: Target, options: SyncOptions, display: Display) -> int:
    """Bring every host up to date, compare or prune. Return 0, or 5 if ``check`` finds a host that differs.

    Raises UsageError, SyncError, HostErrors.
    """
    root = (options.project or project_of(Path.cwd())).resolve()
    with open_cluster(target, interpreters=True) as opened:
        with display.stage(f"connecting to {counted(len(opened.hosts), 'host')}"):
            tree, nodes = connected_with(opened, root)
        if options.prune:
            return prune(opened, nodes, options, display)
        if options.check or options.dry_run:
            found = compare(opened, nodes, tree, options, target.hosts_file.parent, display)
            return SyncError.exit_code if options.check and any(found.values()) else 0
        data = wanted_data(opened, target.hosts_file.parent, options)
        deliver(opened, nodes, tree, display)
        ensure(opened, nodes, display, offline=options.offline)
        ensure_images(opened, nodes, display)
        for source in data:
            send_data(opened, nodes, source, options.rate, display)
        if options.watch:
            push_on_save(opened, nodes, tree, display)
    return 0
