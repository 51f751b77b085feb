"""``orch completion``: the names of hosts and runs on this machine, for a shell to complete."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from orchestrator.errors import OrchError
from orchestrator.local.hosts_file import read_inventory

# A folder may hold thousands of runs; who completes one is after a recent one.
MOST_RUNS = 50
RUN_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]+")


def hosts(hosts_file: Path | None) -> list[tuple[str, str]]:
    """Return the name and address of each host of a hosts file; none if the file is missing or wrong.

    The address is empty if it is the name.
    """
    try:
        inventory = read_inventory((hosts_file or Path("hosts.yaml")).expanduser())
    except OrchError:
        return []
    return [(host.name, host.address if host.address != host.name else "") for host in inventory.hosts]


def recorded_runs(runs_dir: Path | None) -> Iterator[tuple[str, str]]:
    """Yield the id and workload of each run that this machine has recorded, the newest first."""
    base = (runs_dir or Path("runs")).expanduser()
    with suppress(OSError):
        found = sorted((each for each in base.iterdir() if RUN_ID.fullmatch(each.name)), reverse=True)
        for folder in found[:MOST_RUNS]:
            yield folder.name, _workload(folder)


def _workload(run: Path) -> str:
    try:
        return str(json.loads((run / "plan.json").read_text())["spec"]["workload"]["name"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""
