"""Shows the answers of hosts, equal answers once."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from rich.text import Text

from orchestrator.core.inventory.hostrange import folded
from orchestrator.core.text.counted import counted
from orchestrator.core.text.escapes import harmless
from orchestrator.ui.display import Display


def show_answer(display: Display, hosts: Sequence[str], exit_code: int, out: bytes, err: bytes) -> None:
    """Show a command's output, once for all hosts where it was the same."""
    said = [f"exit code {exit_code}"] if exit_code else []
    said += [] if out or err else ["no output"]
    heading = f"{folded(hosts)}{': ' if said else ''}{', '.join(said)}"
    display.err.print(Text(heading, style="bold red" if exit_code else "bold"))
    display.write_bytes(harmless(out) if display.terminal else out)
    sys.stderr.buffer.write(harmless(err) if sys.stderr.isatty() else err)
    sys.stderr.flush()


def show_compared(display: Display, found: Mapping[str, Sequence[str]], tree: str) -> None:
    """Show on stdout how hosts differ from a tree; hosts with the same differences are shown together."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, lines in found.items():
        alike.setdefault(tuple(lines), []).append(name)
    for lines, names in alike.items():
        count = counted(len(lines), "difference")
        display.write(f"{folded(names)}: {count if lines else f'tree {tree}'}\n")
        display.write("".join(f"  {line}\n" for line in lines))
