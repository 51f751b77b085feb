"""``orch completion``: the names of hosts and runs on this machine, for a shell to complete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.errors import OrchError
from orchestrator.local.history import runs as history
from orchestrator.local.hosts_file import read_inventory

# A folder may hold thousands of runs; who completes one is after a recent one.
MOST_RUNS = 50
NEWEST = {"@last": "", "@last-failed": " that failed", "@last-ok": " that succeeded"}


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
    """Yield the words that mean runs which this machine has recorded, each with the workload, the newest first."""
    found = history.recorded_runs((runs_dir or Path("runs")).expanduser())[: -MOST_RUNS - 1 : -1]
    for run in found:
        yield run.run_id, run.workload if run.workload != "?" else ""
    for run in found:
        if run.name is not None:
            yield run.name, f"{run.workload} {run.run_id}"
    if found:
        yield from ((word, f"the newest run{about}") for word, about in NEWEST.items())
