"""Install the user's key on hosts that take only a password, in the middle of ``orch init``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.core.inventory.hosts import Host, Inventory
from orchestrator.core.inventory.target import Settings
from orchestrator.errors import OrchError
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.keys.installing import install
from orchestrator.operations.keys.options import Asking, KeysOptions
from orchestrator.remote.fanout import on_all
from orchestrator.remote.ssh.connection import Connection, connections
from orchestrator.ui.display import Display


def install_keys(
    inventory: Inventory,
    hosts: Sequence[Host],
    asking: Asking,
    settings: Settings,
    fanout: int,
    display: Display,
) -> dict[str, OrchError]:
    """Install the key, as ``orch keys`` does, on hosts that are in no file yet. Return the errors by host.

    Raises UsageError where a password is needed and nobody can be asked.
    """
    # New host keys are shown before they are recorded.
    links = connections(hosts, replace(settings, accept_new_host_keys=False))
    opened = OpenCluster(inventory, tuple(hosts), tuple(links), fanout)
    logins = install(opened, KeysOptions(asking), display)
    on_all(list(logins.links.values()), Connection.close)
    names = {host.name for host in hosts}
    return {name: error for name, error in logins.errors.items() if name in names}
