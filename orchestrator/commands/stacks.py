"""``orch stacks``: show what each rank of a run is doing now, equal ranks once."""

from __future__ import annotations

import json
import time

from orchestrator.core.inventory.target import Target
from orchestrator.core.tracing.stacks import as_lines
from orchestrator.operations.cluster import open_cluster
from orchestrator.operations.tracing.stacks import Looker, Stacks
from orchestrator.ui.display import Display


def stacks(
    target: Target, run_id: str | None, full: bool, native: bool, watch: float | None, display: Display
) -> int:
    """Show the stacks of a run, with ``run_id`` None of the only active one; every ``watch`` seconds if given.

    Return 0, or the code of the first error if a node told nothing. Raises UsageError, HostErrors.
    """
    with open_cluster(target, spares_too=True) as opened:
        looker = Looker.find(opened, run_id, native, display)
        while True:
            found = looker.look()
            show(found, full or native, display)
            if watch is None:
                break
            time.sleep(watch)
            display.write("\n")
    return found.errors[0].exit_code if found.errors else 0


def show(found: Stacks, full: bool, display: Display) -> None:
    """Print a line for each group of ranks, and with ``full`` the stack of the first rank of each."""
    if display.as_json:
        nodes = {name: each.to_wire() for name, each in found.here.items()}
        display.write(json.dumps({"run_id": found.run_id, "nodes": nodes}) + "\n")
    else:
        for line in as_lines(found.groups, full):
            display.write(f"{line}\n")
    display.errors(found.errors)
