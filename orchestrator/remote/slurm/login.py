"""The connections to the login node. Several nodes of a job share one."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from orchestrator.core.inventory.hosts import Host
from orchestrator.core.inventory.target import Settings
from orchestrator.remote.ssh.connection import Connection, connections

# Nodes that share a connection. Each takes up to two sessions at once, and sshd allows 10 (MaxSessions).
NODES_EACH = 4
# A connection that was made so many seconds ago is not replaced, because another node has just replaced it.
FRESH = 2.0


class SharedConnection(Connection):
    """A connection that the threads of several nodes use, and find broken, at the same time."""

    def __init__(self, *settings: Any) -> None:
        super().__init__(*settings)
        self._reopening = threading.Lock()
        self._opened_at = -FRESH
        self._more: list[Connection] = []

    def reopen(self, timeout: float) -> None:
        """Replace a broken connection, unless another thread has just done so. Raises as ``open`` does."""
        with self._reopening:
            if self.alive and time.monotonic() - self._opened_at < FRESH:
                return
            super().reopen(timeout)
            self._opened_at = time.monotonic()

    def close(self) -> None:
        """Close this connection and those made by ``seats``."""
        for each in self._more:
            each.close()
        super().close()

    def seats(self, nodes: int) -> list[Connection]:
        """Return the connection of each of a job's nodes: this one, then further ones, which are opened."""
        while len(self._more) < (nodes - 1) // NODES_EACH:
            (made,) = login_connections([self.host], self.settings)
            made.open()
            self._more.append(made)
        links = [self, *self._more]
        return [links[rank // NODES_EACH] for rank in range(nodes)]


def login_connections(hosts: Sequence[Host], settings: Settings) -> list[Connection]:
    """Return a connection to each host, not yet open."""
    return connections(hosts, settings, SharedConnection)
