"""``orch sandbox up`` and ``down``: keep the embedded cluster of a hosts file running between commands."""

from __future__ import annotations

from pathlib import Path

from orchestrator.errors import UsageError
from orchestrator.local.hosts_file import read_inventory
from orchestrator.operations.cluster import sandbox_of
from orchestrator.sandbox.cluster import Sandbox
from orchestrator.ui.display import Display


def up(hosts_file: Path, display: Display) -> int:
    """Start the servers, print the ssh command for each, and leave them running. Return 0."""
    for host in _sandbox(hosts_file).start(keep=True):
        display.write(f"{host.name}  ssh -i {host.identity_file} -p {host.port} {host.user}@{host.address}\n")
    return 0


def down(hosts_file: Path, display: Display) -> int:
    """Stop the servers, and return 0. The files of their hosts stay."""
    display.write("stopped\n" if _sandbox(hosts_file).stop() else "the sandbox was not running\n")
    return 0


def _sandbox(hosts_file: Path) -> Sandbox:
    inventory = read_inventory(hosts_file)
    if not inventory.sandbox:
        raise UsageError(
            f"{hosts_file} describes real machines", remedy="pass a hosts file that says sandbox: true"
        )
    return sandbox_of(hosts_file, inventory)
