"""Hosts files on this machine, in any format, and the files beside them that describe environments."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.core.inventory import strictyaml
from orchestrator.core.inventory.embedded import embedded_hosts_file
from orchestrator.core.inventory.foreign.formats import OWN
from orchestrator.core.inventory.hosts import Host, Inventory
from orchestrator.core.inventory.parsing import inventory_of, parse_inventory
from orchestrator.core.launch.environment import Environment
from orchestrator.errors import UsageError
from orchestrator.local.foreign import find_hosts
from orchestrator.local.wheels import read_environment


def read_inventory(path: Path) -> Inventory:
    """Return the inventory in a hosts file, in another tool's list of hosts, or in a list such as ``node1,node2``.

    Raises UsageError if it cannot be read, InventoryError if it is invalid.
    """
    return read_with_document(path)[0]


def read_with_document(path: Path) -> tuple[Inventory, dict[str, Any]]:
    """Return the inventory, and the values that it was made from as a hosts file has them.

    Raises as ``read_inventory`` does.
    """
    if not path.exists() and (embedded := embedded_hosts_file(str(path))) is not None:
        inventory = parse_inventory(embedded, source=str(path), environ={})
        return inventory, strictyaml.load(embedded)
    found = find_hosts(path)
    source, text = next(iter(found.texts.items()))
    if found.kind == OWN:
        return parse_inventory(text, source=source, environ=os.environ), strictyaml.load(text)
    imported = found.imported()
    if imported.incomplete is not None:
        raise UsageError(
            f"{source}: {imported.incomplete}",
            remedy=f"name all hosts: --hosts node1,node2, or orch init --from {path}",
        )
    document = {"hosts": imported.hosts, "defaults": imported.defaults, **imported.top}
    inventory = inventory_of(document, source=source, environ=os.environ)
    return replace(inventory, foreign=True, notes=imported.notes, places=imported.places), document


def environments_of(hosts: Sequence[Host], beside: Path) -> dict[str, Environment]:
    """Return hosts' environments by host name, from files relative to ``beside``. Raises UsageError."""
    known: dict[tuple[str, str | None], Environment] = {}
    found = {}
    for host in hosts:
        if host.environment is not None:
            asked = (host.environment, host.python)
            if asked not in known:
                known[asked] = read_environment(beside / Path(host.environment).expanduser(), host.python)
            found[host.name] = known[asked]
    return found


def in_their_environments(hosts: Sequence[Host], known: Mapping[str, Environment]) -> tuple[Host, ...]:
    """Return the hosts with the interpreters of the environments that orch builds for them."""
    return tuple(
        replace(host, python=known[host.name].interpreter(host.workdir)) if host.name in known else host
        for host in hosts
    )
