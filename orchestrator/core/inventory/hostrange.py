"""Expand and fold host ranges: ``gpu[01-04]`` is gpu01 to gpu04, ``rack[1,3-5]`` is rack1, rack3, rack4, rack5."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

MOST = 4096
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")
_TRAILING = re.compile(r"\d{1,9}\Z", re.ASCII)
_PART = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?\Z", re.ASCII)


class RangeError(ValueError):
    """A range that cannot be expanded; the message says why."""


def expand(text: str) -> list[str]:
    """Return every name that ``text`` stands for, keeping leading zeros; raises RangeError."""
    pieces = _BRACKETS.split(text)
    if any("[" in piece or "]" in piece for piece in pieces):
        raise RangeError("its brackets do not match")
    choices = [[piece] if position % 2 == 0 else _numbers(piece) for position, piece in enumerate(pieces)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MOST:
        raise RangeError(f"it expands to {count} names; at most {MOST} are allowed")
    return ["".join(parts) for parts in itertools.product(*choices)]


def _numbers(inside: str) -> list[str]:
    found: list[str] = []
    for part in inside.split(","):
        match = _PART.match(part)
        if match is None:
            raise RangeError(f"[{inside}] is not a range such as [01-04] or [1,3-5]")
        first, last = match.group(1), match.group(2) or match.group(1)
        if int(first) > int(last):
            raise RangeError(f"[{inside}] runs backwards")
        if int(last) - int(first) >= MOST:
            raise RangeError(f"[{inside}] expands to more than {MOST} names")
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        found += [str(number).zfill(width) for number in range(int(first), int(last) + 1)]
    return found


def folded(names: Sequence[str]) -> str:
    """Return names in short form, ordered by first occurrence: gpu01, gpu02 and web become ``gpu[01-02],web``."""
    split = []
    for name in names:
        digits = _TRAILING.search(name)
        number = digits.group() if digits else ""
        split.append((name.removesuffix(number), number))
    # 10 belongs to the numbers of two digits if 09 is there, and else to those without leading zeros.
    padded = {(stem, len(number)) for stem, number in split if number.startswith("0")}
    groups: dict[tuple[str, int], list[int]] = {}
    for stem, number in split:
        width = -1 if not number else len(number) if (stem, len(number)) in padded else 0
        groups.setdefault((stem, width), []).append(int(number or 0))
    return ",".join(_folded(stem, width, sorted(numbers)) for (stem, width), numbers in groups.items())


def _folded(stem: str, width: int, numbers: list[int]) -> str:
    if width < 0:
        return stem
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    parts = [
        str(first).zfill(width) + (f"-{str(last).zfill(width)}" if last > first else "") for first, last in spans
    ]
    return f"{stem}{parts[0]}" if len(numbers) == 1 else f"{stem}[{','.join(parts)}]"
