"""Shows, while a hosts file is made, what became of each host, the file, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.text import Text

from orchestrator.core.text.secret import masked
from orchestrator.errors import OrchError
from orchestrator.ui.display import Display


def show_well(display: Display, name: str, found: str) -> None:
    """Show that a host can be used, and what it is."""
    display.err.print(Text.assemble(("✓ ok      ", "green"), (name, "bold"), f": {found}"))


def show_failed(display: Display, failed: Mapping[str, OrchError]) -> None:
    """Show why hosts cannot be used, and the remedy: once if it is the same for all."""
    remedies = {error.remedy for error in failed.values()}
    shared = remedies.pop() if len(failed) > 1 and len(remedies) == 1 else None
    for name, error in failed.items():
        remedy = f" → {error.remedy}" if error.remedy and not shared else ""
        said = masked(f"{error.message}{remedy}")
        display.err.print(Text.assemble(("✗ failed  ", "bold red"), (name, "bold"), f": {said}"))
    if shared:
        display.err.print(Text(f"→ {masked(shared)}"))


def show_keyless(display: Display, names: Sequence[str]) -> None:
    """Show which hosts answer, and log nobody in without a password."""
    for name in names:
        said = ": answers, and takes a password but no key of yours"
        display.err.print(Text.assemble(("? no key  ", "yellow"), (name, "bold"), said))


def show_keys(display: Display, keys: Mapping[str, str]) -> None:
    """Show what hosts without a recorded key presented."""
    for name, said in keys.items():
        display.err.print(Text.assemble(("? new key ", "yellow"), (name, "bold"), f": {said}"))


def show_file(display: Display, path: str, text: str) -> None:
    """Show a file that is to be written."""
    display.err.print(Text(f"\n{path}:", style="bold"))
    for line in text.splitlines():
        display.err.print(Text(f"  {line}", style="dim" if line.lstrip().startswith("#") else ""))
    display.err.print()


def show_next(display: Display, commands: Sequence[tuple[str, str]]) -> None:
    """Show the commands that come next, each with what it does."""
    width = max(len(command) for command, _ in commands)
    display.err.print(Text("next:", style="bold"))
    for command, does in commands:
        display.err.print(Text.assemble("  ", (f"{command:<{width}}", "bold"), (f"  {does}", "dim")))
