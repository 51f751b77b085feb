"""Draw series as lines of text. A character of braille holds 2 x 4 dots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.core.metrics.series import Series

# Dots of a braille character by row and column (Unicode, U+2800 to U+28FF).
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
LETTERS = "abcdefghijklmnopqrstuvwxyz"
# Width of the numbers at the left.
MARGIN = 10
LEAST_WIDTH = 20
# Larger numbers are not drawn, like infinite ones: the height of a drawing must be a number.
LARGEST = 1e280


@dataclass(frozen=True)
class Cell:
    """Text in a drawing, and which series it belongs to; None for the frame."""

    text: str
    series: int | None = None


Row = list[Cell]


@dataclass(frozen=True)
class Frame:
    """The part of the plane that is drawn, into ``width`` x ``height`` dots. ``log``: of the values' logarithm."""

    left: float
    right: float
    low: float
    high: float
    width: int
    height: int
    log: bool

    def column(self, step: float) -> int:
        """Return the column of dots of a step."""
        return round((step - self.left) / (self.right - self.left) * (self.width - 1))

    def row(self, value: float) -> int | None:
        """Return the row of dots of a value, from the top; None if it cannot be drawn."""
        if not _fits(value) or (self.log and value <= 0):
            return None
        value = math.log10(value) if self.log else value
        return round((self.high - value) / (self.high - self.low) * (self.height - 1))

    def value(self, part: float) -> float:
        """Return the value at a part of the height, from 0 at the top to 1."""
        value = self.high - part * (self.high - self.low)
        return 10**value if self.log else value


def drawn(lines: Sequence[Series], width: int, height: int, *, log: bool = False) -> list[Row]:
    """Return a drawing of ``width`` characters by ``height`` lines and one of numbers below; empty without values.

    Each series ends with its letter. A series that lies over another one hides it.
    """
    frame = _frame(lines, max(width - MARGIN - 2, LEAST_WIDTH), height, log)
    if frame is None:
        return []
    dots: dict[tuple[int, int], tuple[int, int]] = {}
    ends: dict[int, dict[int, int]] = {}
    for number, line in enumerate(lines):
        last = None
        for step, value in zip(line.steps, line.values, strict=True):
            row = frame.row(value) if _fits(step) else None
            here = None if row is None else (frame.column(step), row)
            if here is not None:
                for column, at in _between(last or here, here):
                    place = column // 2, at // 4
                    known, owner = dots.get(place, (0, number))
                    dots[place] = (known if owner == number else 0) | DOTS[at % 4][column % 2], number
                ends.setdefault(number, {}).clear()
                ends[number][here[1] // 4] = here[0] // 2
            last = here
    rows = [_row(frame, dots, ends, at, height) for at in range(height)]
    return [*rows, _axis(frame)]


def _frame(lines: Sequence[Series], width: int, height: int, log: bool) -> Frame | None:
    pairs = [
        (step, math.log10(value) if log else value)
        for line in lines
        for step, value in zip(line.steps, line.values, strict=True)
        if _fits(step) and _fits(value) and (value > 0 or not log)
    ]
    if not pairs:
        return None
    steps, values = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    left, right, low, high = min(steps), max(steps), min(values), max(values)
    # A single step or value is drawn in the middle.
    if left == right:
        left, right = left - 0.5, right + 0.5
    if low == high:
        room = abs(low) * 0.05 or 0.5
        low, high = low - room, high + room
    return Frame(left, right, low, high, width * 2, height * 4, log)


def _fits(number: float) -> bool:
    return abs(number) < LARGEST


def _between(first: tuple[int, int], last: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the dots of a straight line."""
    most = max(abs(last[0] - first[0]), abs(last[1] - first[1]))
    return [
        (
            first[0] + round((last[0] - first[0]) * part / most) if most else first[0],
            first[1] + round((last[1] - first[1]) * part / most) if most else first[1],
        )
        for part in range(most + 1)
    ]


def _row(
    frame: Frame,
    dots: dict[tuple[int, int], tuple[int, int]],
    ends: dict[int, dict[int, int]],
    at: int,
    height: int,
) -> Row:
    told = at in (0, height - 1, height // 2)
    row = [Cell(f"{frame.value(at / (height - 1)):>{MARGIN - 2}.4g} ┤" if told else " " * (MARGIN - 1) + "│")]
    for column in range(frame.width // 2):
        known, owner = dots.get((column, at), (0, None))
        row.append(Cell(chr(0x2800 + known) if known else " ", owner))
    letters = [number for number, places in ends.items() if at in places]
    if letters:
        row.append(Cell(" "))
        row += [Cell(LETTERS[number % len(LETTERS)], number) for number in letters]
    return row


def _axis(frame: Frame) -> Row:
    left, right = f"{frame.left:.6g}", f"{frame.right:.6g}"
    room = frame.width // 2 - len(left) - len(right)
    return [Cell(" " * MARGIN + left + " " * max(room, 1) + right)]
