"""Shows what ``orch keys`` will change, and what became of it, equal lines once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.core.keys.changes import grouped
from orchestrator.ui.display import Display

HERE = "here"
"""This machine's place in the list of hosts."""


def show_changes(display: Display, here: Sequence[str], hosts: Mapping[str, Sequence[str]]) -> None:
    """Write the lines of this machine, then those of the hosts."""
    everywhere = {**({HERE: tuple(here)} if here else {}), **grouped(hosts)}
    width = max(map(len, everywhere), default=0)
    for name, lines in everywhere.items():
        for number, line in enumerate(lines):
            display.write(f"{'' if number else name:<{width}}  {line}\n")
