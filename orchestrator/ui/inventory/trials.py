"""Shows, while a hosts file is made, what became of each host, the file, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.text import Text

from orchestrator.core.inventory.hostrange import folded
from orchestrator.core.text.alike import Said, alike
from orchestrator.core.text.secret import masked
from orchestrator.errors import OrchError
from orchestrator.ui.console import fitted
from orchestrator.ui.display import Display


def show_well(display: Display, name: str, found: str) -> None:
    """Show that a host can be used, and what it is."""
    _show(display, ("✓ ok      ", "green"), name, found)


def _show(display: Display, sign: tuple[str, str], name: str, said: str) -> None:
    """Show a line about a host; on a terminal it is wrapped between words."""
    line = f"{sign[0]}{name}: {said}"
    shown = fitted(line, display.err.width) if display.err.is_terminal else line
    begun = f"{sign[0]}{name}"
    if shown.startswith(begun):
        display.err.print(Text.assemble(sign, (name, "bold"), shown.removeprefix(begun)))
    else:
        display.err.print(Text(shown))


def show_failed(display: Display, failed: Mapping[str, OrchError]) -> None:
    """Show why hosts cannot be used: errors that are alike once, and a remedy once if it is the same for all."""
    said = alike(Said((name,), error.message, error.remedy or "") for name, error in failed.items())
    remedies = {each.remedy for each in said}
    shared = remedies.pop() if len(said) > 1 and len(remedies) == 1 else None
    for each in said:
        remedy = f" → {each.remedy}" if each.remedy and not shared else ""
        _show(display, ("✗ failed  ", "bold red"), folded(each.hosts), masked(f"{each.message}{remedy}"))
    if shared:
        line = f"→ {masked(shared)}"
        display.err.print(Text(fitted(line, display.err.width) if display.err.is_terminal else line))


def show_keyless(display: Display, names: Sequence[str]) -> None:
    """Show which hosts answer, and log nobody in without a password."""
    for name in names:
        _show(display, ("? no key  ", "yellow"), name, "answers, and takes a password but no key of yours")


def show_keys(display: Display, keys: Mapping[str, str]) -> None:
    """Show what hosts without a recorded key presented."""
    for name, said in keys.items():
        _show(display, ("? new key ", "yellow"), name, said)


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
