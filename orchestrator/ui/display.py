"""The display of a command: every line that orch prints goes through it.

Workload output and results go to stdout, orch's own progress to stderr. With ``--json`` stdout carries one event a
line, and only errors are printed besides.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

import click
from rich.table import Table
from rich.text import Text

from orchestrator.core.text.alike import of_errors
from orchestrator.core.text.escapes import visible
from orchestrator.core.text.secret import masked
from orchestrator.errors import HostErrors, OrchError
from orchestrator.ui.console import Screen, Trimmed, fitted
from orchestrator.ui.transfers import BuildProgress, Transfers

# What questions raise if the user leaves instead of answering.
QUITS = (click.Abort, KeyboardInterrupt)


class Display:
    """The output streams of one command. The other modules of ``ui`` format what is shown.

    ``out`` and ``err`` are the screens of stdout and stderr. ``terminal``: whether stdout is a terminal.
    ``coloured``: whether stdout may be coloured.
    """

    def __init__(self, *, as_json: bool = False, verbose: bool = False) -> None:
        self.as_json = as_json
        self.verbose = verbose
        self.err = Screen(stderr=True, quiet=as_json)
        self.out = Screen()
        self.terminal = sys.stdout.isatty()
        self.coloured = self.terminal and "NO_COLOR" not in os.environ

    @property
    def live(self) -> bool:
        """Whether lines may be redrawn: only where stdout goes to the terminal as well, and so is seen there."""
        return self.err.is_terminal and self.terminal and not self.as_json

    @contextmanager
    def stage(self, doing: str) -> Iterator[Stage]:
        """Show a step: a spinner in a live display while the body runs, then one line with the duration."""
        stage = Stage()
        began = time.monotonic()
        if self.live:
            with self.err.status(doing):
                yield stage
        else:
            yield stage
        done = Text(f"{doing}: {stage.result}" if stage.result else doing)
        done.append(f"  {time.monotonic() - began:.1f} s", style="dim")
        self.err.print(done)

    def transfer(self, title: str, totals: Mapping[str, int]) -> Transfers:
        """Return a context that shows the progress of a transfer of ``totals`` bytes, by node."""
        return Transfers(title, totals, self.err, self.live)

    def saying(self, nodes: Collection[str]) -> BuildProgress:
        """Return a context that shows the output of builds on ``nodes``."""
        return BuildProgress(nodes, self.err, self.live)

    def table(self, table: Table, screen: Screen | None = None) -> None:
        """Print a table, by default on stdout: as wide as a terminal, or every row on one line if there is none.

        No line ends with blanks.
        """
        screen = screen or self.out
        if screen.is_terminal:
            screen.print(Trimmed(table), soft_wrap=False, end="")
            return
        plain = Screen(width=2000, color_system=None)
        with plain.capture() as captured:
            plain.print(Trimmed(table), end="")
        if screen is self.out:
            self.write(captured.get())
        else:
            screen.print(Text(captured.get()), end="")

    def note(self, text: str) -> None:
        """Print a line on stderr, broken between words where the terminal ends."""
        lines = text.split("\n")
        self.err.print(
            Text("\n".join(fitted(each, self.err.width) for each in lines) if self.err.is_terminal else text)
        )

    def notes(self, texts: Iterable[str]) -> None:
        """Print each text as a note on stderr, with secrets masked."""
        for text in texts:
            self.note(f"note: {masked(visible(text))}")

    def confirm(self, question: str) -> bool:
        """Ask a yes-or-no question on stderr. Raises click.Abort at the end of stdin."""
        return click.confirm(visible(question), err=True)

    def ask_password(self, question: str) -> str:
        """Ask for a password on the terminal, which does not show it. Raises click.Abort at the end of stdin."""
        return str(click.prompt(visible(question), hide_input=True, default="", show_default=False, err=True))

    def write(self, text: str) -> None:
        """Write a command's result to stdout, with control characters written out."""
        self.write_bytes(visible(text).encode("utf-8"))

    def error(self, error: OrchError) -> None:
        """Print an error on stderr, with ``--json`` too. Errors of several hosts that are alike are one line."""
        if isinstance(error, HostErrors):
            self._error_lines([*map(str, of_errors([error])), *error.others])
        else:
            self._error_lines(str(error).splitlines())

    def errors(self, errors: Iterable[OrchError]) -> None:
        """Print errors of hosts as ``error`` does."""
        self._error_lines(map(str, of_errors(errors)))

    def _error_lines(self, lines: Iterable[str]) -> None:
        console = Screen(stderr=True)
        for line in masked("\n".join(lines)).splitlines():
            shown = fitted(f"error: {line}", console.width) if console.is_terminal else f"error: {line}"
            console.print(Text.assemble(("error: ", "bold red"), shown.removeprefix("error: ")))

    def named(self, lines: Mapping[str, str]) -> None:
        """Write names, each with its line, to stdout."""
        width = max(map(len, lines), default=0)
        self.write("".join(f"{f'{name:<{width}}  {line}'.rstrip()}\n" for name, line in lines.items()))

    def write_bytes(self, data: bytes, descriptor: int = 1) -> None:
        """Write to the descriptor, past rich: output comes in large blocks of bytes, not all of them text."""
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]


class Stage:
    """A step in progress; set ``result`` to the text to show after it."""

    result = ""
