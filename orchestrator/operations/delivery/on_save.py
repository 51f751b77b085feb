"""``orch sync --watch``: a push for every save."""

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
    """Push on every save, until Ctrl-C. A push that fails is told, and the next save tries again.

    Raises KeyboardInterrupt, after the push that goes on; at once at the second Ctrl-C.
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
    """Once for every save below a folder; raises KeyboardInterrupt between two of them."""
    from watchfiles import DefaultFilter, watch  # takes a while, and only --watch needs it

    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        # An exception raised at any place may be lost in a callback; an event is not.
        stopped.set()
        signal.signal(signal.SIGINT, usual)

    usual = signal.signal(signal.SIGINT, stop)
    try:
        yield from watch(root, watch_filter=DefaultFilter(), stop_event=stopped, raise_interrupt=False)
    finally:
        signal.signal(signal.SIGINT, usual)
    raise KeyboardInterrupt
