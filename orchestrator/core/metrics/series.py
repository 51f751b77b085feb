"""Series: the values of one metric over the steps of a run."""

from __future__ import annotations

import math
from array import array
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from orchestrator.errors import UsageError


def _numbers() -> array[float]:
    return array("d")


@dataclass(frozen=True)
class Series:
    """One metric of a run: ``values[i]`` at ``steps[i]``, written at ``times[i]`` (NaN if that is not known).

    ``source``: the file, or whose output, it was read from. ``times``: seconds, from any beginning.
    """

    name: str
    source: str
    steps: array[float] = field(default_factory=_numbers)
    values: array[float] = field(default_factory=_numbers)
    times: array[float] = field(default_factory=_numbers)

    def __len__(self) -> int:
        return len(self.values)

    def add(self, step: float | None, value: float, time: float | None) -> None:
        """Add a value; without a step, at the next whole number."""
        if step is None:
            step = self.steps[-1] + 1 if self.steps else 1.0
        self.steps.append(step)
        self.values.append(value)
        self.times.append(math.nan if time is None else time)

    def bounds(self) -> tuple[float, float]:
        """Return the least and the greatest value, NaN if no value is finite."""
        finite = [value for value in self.values if math.isfinite(value)]
        return (min(finite), max(finite)) if finite else (math.nan, math.nan)

    def smoothed(self, width: int) -> Series:
        """Return the series with each value replaced by the mean of it and the ``width - 1`` values before it."""
        window: deque[float] = deque(maxlen=width)
        means = array("d")
        for value in self.values:
            window.append(value)
            means.append(math.fsum(window) / len(window) if all(map(math.isfinite, window)) else value)
        return Series(self.name, self.source, self.steps, means, self.times)

    def over_time(self) -> Series:
        """Return the series over the hours since its first value, not over steps; empty if no times are known."""
        began = next((time for time in self.times if math.isfinite(time)), None)
        found = Series(self.name, self.source)
        for value, time in zip(self.values, self.times, strict=True):
            if began is not None and math.isfinite(time):
                found.add((time - began) / 3600, value, time)
        return found


def finite(number: float) -> float | None:
    """Return a number, or None in place of one that JSON does not have."""
    return number if math.isfinite(number) else None


def thinned(line: Series, most: int) -> list[tuple[float, float | None]]:
    """Return at most ``most`` steps and values of a series: of equally many neighbours, the least and greatest.

    So peaks stay. Steps that are no numbers are left out; other values that are none are None.
    """
    points = [
        (step, finite(value)) for step, value in zip(line.steps, line.values, strict=True) if math.isfinite(step)
    ]
    if len(points) <= most:
        return points
    size = -(-len(points) // (most // 2))
    kept: list[tuple[float, float | None]] = []
    for begin in range(0, len(points), size):
        part = points[begin : begin + size]
        numbers = [(value, at) for at, (_, value) in enumerate(part) if value is not None]
        if not numbers:
            kept.append(part[0])
            continue
        kept += [part[at] for at in sorted({min(numbers)[1], max(numbers)[1]})]
    return kept


class Gathered:
    """Series that are being read from one source, by name."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.series: dict[str, Series] = {}

    def add(self, name: str, step: float | None, value: float, time: float | None = None) -> None:
        """Add a value of the metric ``name``."""
        if name not in self.series:
            self.series[name] = Series(name, self.source)
        self.series[name].add(step, value, time)


def chosen(found: Sequence[Series], metric: str, source: str | None, run: str) -> Series:
    """Return the first series of a metric, from a source whose name holds ``source``.

    ``metric`` may be the end of a name: ``loss`` for ``train/loss``. Raises UsageError if there is none.
    """
    there = [each for each in found if source is None or source in each.source]
    exact = [each for each in there if each.name == metric]
    ending = [each for each in there if each.name.endswith((f"/{metric}", f".{metric}"))]
    if exact or ending:
        return (exact or ending)[0]
    where = "" if source is None else f" from {source}"
    if not found:
        remedy = "a script that writes metrics.jsonl or TensorBoard's event files, or prints loss=0.3, has some"
        raise UsageError(f"run {run} has no metrics", remedy=remedy)
    raise UsageError(f"run {run} has no metric {metric!r}{where}", remedy=f"it has {names(found, metric)}")


def names(found: Iterable[Series], near: str = "") -> str:
    """Return the names of series in words, at most a few: those like ``near`` if there are any."""
    all_names = list(dict.fromkeys(each.name for each in found))
    shown = get_close_matches(near, all_names, n=5, cutoff=0.5) or all_names[:8]
    more = len(all_names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
