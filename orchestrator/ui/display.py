"""The only printer: every line that orch shows goes through a Display.

Workload output and results go to stdout, orch's own progress to stderr. With ``--json`` stdout carries one event a
line, and nothing else is printed but errors.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import click
from rich.text import Text

from orchestrator.core.text.escapes import visible
from orchestrator.core.text.secret import masked
from orchestrator.errors import OrchError
from orchestrator.ui.console import Screen
from orchestrator.ui.transfers import Saying, Transfers


class Display:
    """Where a command shows things, one instance a command; the other modules of ``ui`` know what is shown.

    ``out`` and ``err`` are the screens behind stdout and stderr. ``terminal``: whether stdout is one, and
    ``coloured``: whether it may be coloured.
    """

    def __init__(self, *, as_json: bool = False, verbose: bool = False) -> None:
        self.as_json = as_json
        self.verbose = verbose
        self.err = Screen(stderr=True, quiet=as_json)
        self.out = Screen()
        self.terminal = sys.stdout.isatty()
        self.coloured = self.terminal and "NO_COLOR" not in os.environ

    @contextmanager
    def stage(self, doing: str) -> Iterator[Stage]:
        """A step with its duration: a spinner on a terminal, one line when it is done."""
        stage = Stage()
        began = time.monotonic()
        if self.err.is_terminal:
            with self.err.status(doing):
                yield stage
        else:
            yield stage
        done = Text(f"{doing}: {stage.result}" if stage.result else doing)
        done.append(f"  {time.monotonic() - began:.1f} s", style="dim")
        self.err.print(done)

    def transfer(self, title: str, totals: Mapping[str, int]) -> Transfers:
        """Bytes on their way to nodes, of ``totals`` by node: a context."""
        return Transfers(title, totals, self.err)

    def saying(self, nodes: Collection[str]) -> Saying:
        """What builds on nodes say: a context."""
        return Saying(nodes, self.err)

    def note(self, text: str) -> None:
        """A line of orch's own on stderr."""
        self.err.print(Text(text))

    def confirm(self, question: str) -> bool:
        """Ask on stderr; raises click.Abort at the end of stdin."""
        return click.confirm(visible(question), err=True)

    def write(self, text: str) -> None:
        """A command's result on stdout, its control characters written out."""
        self.write_bytes(visible(text).encode("utf-8"))

    def error(self, error: OrchError) -> None:
        """An error; printed with ``--json`` too."""
        console = Screen(stderr=True)
        for line in masked(str(error)).splitlines():
            console.print(Text.assemble(("error: ", "bold red"), line))

    def named(self, lines: Mapping[str, str]) -> None:
        """Names with a line each, on stdout."""
        width = max(map(len, lines), default=0)
        self.write("".join(f"{name:<{width}}  {line}\n" for name, line in lines.items()))

    def write_bytes(self, data: bytes, descriptor: int = 1) -> None:
        """Straight to the descriptor: output comes in large blocks of bytes, not all of them text."""
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]


class Stage:
    """A running step; set ``result`` to what came of it."""

    result = ""
