"""Metrics in lines of text: objects of JSON, and what scripts print."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.core.metrics.series import Gathered
from orchestrator.errors import UsageError

# Names that say where in a run a line belongs, in order of preference, and when it was written.
STEPS = ("step", "global_step", "iteration", "iter", "it", "batch", "epoch")
TIMES = ("time", "timestamp", "_timestamp", "wall_time")
# Longer lines are cut.
LONGEST = 4096
NUMBER = r"[-+]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?|nan|inf(?:inity)?)"
# loss=0.3, loss: 0.3, train/loss = 3e-1; not 12:30:05, 10.0.0.3:22 or a path.
PAIR = re.compile(rf"(?<![\w./:-])([A-Za-z_][\w./-]{{0,80}}) ?[=:] ?({NUMBER})(?![\w:/-]|\.\d)", re.IGNORECASE)


def add_object(found: Gathered, line: bytes) -> None:
    """Add the numbers of a line of JSON; objects in objects give names like ``train/loss``. Skip other lines."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return
    if isinstance(value, dict):
        add_values(found, dict(_flat(value)))


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, each in value.items():
        if isinstance(each, dict):
            yield from _flat(each, f"{prefix}{name}/")
        elif isinstance(each, (int, float)) and not isinstance(each, bool):
            try:
                yield prefix + name, float(each)
            except OverflowError:
                continue


def add_values(found: Gathered, values: Mapping[str, float]) -> None:
    """Add what one line tells; its step and time are those of the names in ``STEPS`` and ``TIMES``."""
    step = next((name for name in STEPS if name in values), None)
    time = next((name for name in TIMES if name in values), None)
    for name, value in values.items():
        if name not in (step, time):
            found.add(name, values[step] if step else None, value, values[time] if time else None)


class Printed:
    """A pattern of the lines that tell metrics.

    ``pattern``: a regular expression whose named groups are metrics, such as ``step (?P<step>\\d+) loss
    (?P<loss>\\S+)``; None for ``key=value`` and ``key: value``. Raises UsageError if it is not one.
    """

    def __init__(self, pattern: str | None = None) -> None:
        self.own = None
        if pattern is not None:
            try:
                self.own = re.compile(pattern)
            except re.error as error:
                raise UsageError(f"--pattern {pattern!r} is no regular expression: {error}") from None
            if not self.own.groupindex:
                remedy = r"for example 'step (?P<step>\d+) loss (?P<loss>\S+)'"
                raise UsageError(f"--pattern {pattern!r} names no metric", remedy=remedy)

    def add_line(self, found: Gathered, line: bytes) -> None:
        """Add the numbers of a printed line. A progress bar's line has parts that overwrite each other."""
        if self.own is None and b"=" not in line and b":" not in line:
            return
        for part in line[:LONGEST].decode("utf-8", "replace").split("\r"):
            values = self.values(part)
            if values:
                add_values(found, values)

    def values(self, text: str) -> dict[str, float]:
        """Return the numbers in a line by name."""
        if self.own is None:
            return {name: float(number) for name, number in PAIR.findall(text)}
        values: dict[str, float] = {}
        for match in self.own.finditer(text):
            for name, word in match.groupdict().items():
                try:
                    values[name] = float(word)
                except (TypeError, ValueError):
                    continue
        return values
