"""Shows the metrics of recorded runs: as a list, and as curves."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from orchestrator.core.metrics.drawing import LETTERS, Row, drawn
from orchestrator.core.metrics.series import Series
from orchestrator.core.text.escapes import visible
from orchestrator.ui.display import Display

COLOURS = ("cyan", "magenta", "yellow", "green", "red", "blue")
HEIGHT = 16
# Columns of a drawing that goes to a file or another program.
WIDTH = 100


def show_metrics(display: Display, found: Sequence[Series]) -> None:
    """Show series on stdout, one a line. JSON: with all their values, null for those that are not finite."""
    if display.as_json:
        for line in found:
            about = {"metric": line.name, "source": line.source}
            columns = {"steps": line.steps, "values": line.values, "times": line.times}
            display.write(json.dumps(about | {name: _finite(column) for name, column in columns.items()}) + "\n")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("metric", "from", "values", "steps", "first", "last", "least", "greatest"):
        right = heading not in ("metric", "from")
        table.add_column(heading, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")
    for line in found:
        numbers = (line.values[0], line.values[-1], *line.bounds())
        table.add_row(
            Text(visible(line.name)),
            Text(visible(line.source)),
            f"{len(line)}",
            f"{line.steps[0]:g}-{line.steps[-1]:g}",
            *(f"{number:.4g}" for number in numbers),
        )
    if found:
        display.table(table)


def show_curves(display: Display, lines: Sequence[tuple[str, Series]], axis: str, *, log: bool) -> None:
    """Draw series on stdout, each with its title, with the numbers that matter below."""
    width = display.out.width if display.terminal else WIDTH
    rows = drawn([line for _, line in lines], width, HEIGHT, log=log)
    names = dict.fromkeys(line.name for _, line in lines)
    _print(display, Text(f"{', '.join(names)} by {axis}" + (", logarithmic" if log else "")))
    if not rows:
        positive = " above 0" if log else ""
        _print(display, Text(f"no finite value{positive} to draw"))
    for row in rows:
        _print(display, _text(row))
    for number, (title, line) in enumerate(lines):
        letter = Text(LETTERS[number % len(LETTERS)], style=COLOURS[number % len(COLOURS)])
        _print(display, letter.append(f"  {title}: {_told(line, axis)}", style="default"))


def _print(display: Display, line: Text) -> None:
    if display.terminal:
        display.out.print(line, no_wrap=True, overflow="ellipsis", crop=True)
    else:
        display.write(f"{line.plain.rstrip()}\n")


def _text(row: Row) -> Text:
    text = Text()
    for cell in row:
        text.append(cell.text, style="dim" if cell.series is None else COLOURS[cell.series % len(COLOURS)])
    return text


def _told(line: Series, axis: str) -> str:
    finite = [at for at, value in enumerate(line.values) if math.isfinite(value)]
    parts = [f"{line.values[-1]:.4g} at {_place(line, len(line) - 1, axis)}"]
    if finite:
        for word, choose in (("least", min), ("greatest", max)):
            at = choose(finite, key=lambda at: line.values[at])
            parts.append(f"{word} {line.values[at]:.4g} at {_place(line, at, axis)}")
    return f"{', '.join(parts)} ({line.source})"


def _place(line: Series, at: int, axis: str) -> str:
    return f"{line.steps[at]:.3g} h" if axis == "hours" else f"{axis} {line.steps[at]:g}"


def _finite(numbers: Sequence[float]) -> list[float | None]:
    return [number if math.isfinite(number) else None for number in numbers]
