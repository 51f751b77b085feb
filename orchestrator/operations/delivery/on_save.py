"""``orch sync --watch``: pushes the project after every save."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

from orchestrator.core.transfer.local_tree import LocalTree, difference, hash_tree
from orchestrator.errors import OrchError
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.delivery.syncing import deliver, differing
from orchestrator.remote.fanout import on_all
from orchestrator.remote.node import Node
from orchestrator.ui.display import Display


def push_on_save(opened: OpenCluster, nodes: Sequence[Node], tree: LocalTree, display: Display) -> None:
    """Push on every save until Ctrl-C. If a push fails, show the error and try again on the next save.

    The first Ctrl-C raises KeyboardInterrupt after the current push, the second at once.
    """
    root = tree.root
    display.note(f"watching {root}; Ctrl-C ends it")
    for _ in saves(root):
        try:
            now = hash_tree(root)
            if now.tree_id == tree.tree_id:
                continue
            change = difference(tree.entries, now.entries)
            display.note(", ".join(line for line in differing(change)[:5]))
            on_all([node.connection for node in nodes if not node.connection.alive], lambda link: link.open())
            deliver(opened, nodes, now, display)
            tree = now
        except OrchError as error:
            display.error(error)


def saves(root: Path) -> Iterator[object]:
    """Yield once for every save below a folder. After Ctrl-C, raises KeyboardInterrupt between two saves."""
    from watchfiles import DefaultFilter, watch  # Slow to import, and only --watch needs it.

    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        # An exception raised here could be swallowed in a callback; an event cannot.
        stopped.set()
        signal.signal(signal.SIGINT, usual)

    usual = signal.signal(signal.SIGINT, stop)
    try:
        yield from watch(root, watch_filter=DefaultFilter(), stop_event=stopped, raise_interrupt=False)
    finally:
        signal.signal(signal.SIGINT, usual)
    raise KeyboardInterrupt
