"""Hosts files on this machine, and the files beside them that describe environments."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.core.inventory.embedded import embedded_hosts_file
from orchestrator.core.inventory.hosts import Host, Inventory, parse_inventory
from orchestrator.core.launch.environment import Environment
from orchestrator.errors import UsageError
from orchestrator.local.wheels import read_environment

NO_HOSTS_FILE = (
    "write one with orch init, name one with --hosts FILE, or try orch on this machine: --hosts sandbox"
)


def read_inventory(path: Path) -> Inventory:
    """Parse a hosts file, or the embedded cluster that ``path`` names: ``sandbox`` or ``sandbox:N``.

    Raises UsageError if the file cannot be read, InventoryError if it is invalid.
    """
    if not path.exists() and (embedded := embedded_hosts_file(str(path))) is not None:
        return parse_inventory(embedded, source=str(path), environ={})
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        missing = isinstance(error, FileNotFoundError)
        remedy = NO_HOSTS_FILE if missing else "pass --hosts FILE, or set ORCH_HOSTS"
        raise UsageError(f"cannot read the hosts file {path}: {reason}", remedy=remedy) from None
    return parse_inventory(text, source=path.name, environ=os.environ)


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
