"""``orch hosts``: print what each key of each host came to, and where the value comes from."""

from __future__ import annotations

from pathlib import Path

from orchestrator.core.inventory import provenance
from orchestrator.core.inventory.hosts import select
from orchestrator.core.inventory.schema import schema_text
from orchestrator.local.hosts_file import read_with_document
from orchestrator.remote.ssh.lookup import look_up
from orchestrator.ui.display import Display
from orchestrator.ui.inventory.origins import show_origins


def hosts(hosts_file: Path, nodes: str | None, display: Display) -> int:
    """Show the hosts of a file, without connecting. Return 0. Raises UsageError and InventoryError."""
    inventory, document = read_with_document(hosts_file)
    chosen = inventory.hosts if nodes is None else select(inventory, nodes)
    ssh = {} if inventory.sandbox else look_up(chosen)
    found = provenance.of_hosts(inventory, document, ssh)
    cluster = provenance.of_cluster(inventory, document)
    show_origins(display, cluster, {host.name: found[host.name] for host in chosen})
    return 0


def schema(display: Display) -> int:
    """Print the JSON Schema of hosts files. Return 0."""
    display.write(schema_text())
    return 0
