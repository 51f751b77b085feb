"""The console that all output goes through: of what it prints, only its styles can control the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment

from orchestrator.core.text.escapes import visible

# Styles of the states of nodes and runs.
STATE_STYLES = {
    "ok": "green",
    "running": "green",
    "reconnecting": "yellow",
    "stopping": "yellow",
    "stopped": "yellow",
    "failed": "red",
    "lost": "red",
    "rebooted": "red",
    "left over": "red",
    "not answering": "red",
}


def fitted(line: str, width: int) -> str:
    """Return a line as it fits ``width`` columns: wrapped between words, with its remedy on lines of its own."""
    if len(line) <= width:
        return line
    message, arrow, remedy = line.partition(" → ")
    wrap = partial(textwrap.wrap, width=width, break_long_words=False, break_on_hyphens=False)
    lines = wrap(message, subsequent_indent="  ")
    if arrow:
        lines += wrap(f"→ {remedy}", initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


def continued(words: Sequence[str], width: int, indent: str) -> str:
    """Return a shell's command as it fits ``width`` columns: broken between words, to be copied as a whole.

    A word longer than that has a line of its own, unbroken.
    """
    lines = [""]
    for word in words:
        begun = f"{lines[-1]} {word}" if lines[-1] else word
        deeper = indent if len(lines) == 1 else indent * 2
        # Room for the blank and the backslash at the end.
        if lines[-1] and len(deeper) + len(begun) + 2 > width:
            lines.append(word)
        else:
            lines[-1] = begun
    return indent + f" \\\n{indent * 2}".join(lines)


class AsIs(str):
    """Text that passes unchanged: a workload's output is meant for the user's terminal."""

    __slots__ = ()


class Trimmed:
    """A table without the blanks with which rich fills its lines up."""

    def __init__(self, table: RenderableType) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield each line up to its last character."""
        for line in console.render_lines(self.table, options, pad=False):
            while line and not line[-1].text.strip(" "):
                line.pop()
            if line:
                yield from line[:-1]
                yield Segment(line[-1].text.rstrip(" "), line[-1].style)
            yield Segment.line()


class Screen(Console):
    """A rich console that prints brackets literally and writes control characters out."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, soft_wrap=True, markup=False, emoji=False, **options)

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError, where rich would end the program with exit code 1."""
        raise BrokenPipeError

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render with rich, and write out control characters in everything but ``AsIs`` text."""
        for segment in super().render(renderable, options):
            if segment.control or isinstance(segment.text, AsIs):
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)
