"""Checks on incoming data: JSON within size limits, and values of declared shapes.

A shape is a function ``(value, where) -> value`` that returns the checked value or raises ``Misshapen``; ``where``
names the value in that error. Lists come out as tuples.
"""

from __future__ import annotations

import json
import math
import re
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn, TypeVar

    T = TypeVar("T")
    U = TypeVar("U")
    Shape = Callable[[object, str], T]

# Largest message unless its reader sets other limits: bytes of JSON, and number of values.
MOST_BYTES, MOST_VALUES = 1 << 20, 200_000
# Largest whole number: JSON readers that use doubles are exact up to here.
MOST = 1 << 53


class Misshapen(ValueError):
    """An incoming value does not have the expected shape; the message says where, and what was expected."""


def decoded(payload: bytes, most_bytes: int = MOST_BYTES, most_values: int = MOST_VALUES) -> object:
    """Decode JSON of at most ``most_bytes`` bytes and ``most_values`` values; raises Misshapen for anything else.

    Counting commas and brackets bounds the number of values before any of them is created.
    """
    if len(payload) > most_bytes:
        raise Misshapen("%d bytes: expected at most %d" % (len(payload), most_bytes))
    if payload.count(b",") + payload.count(b"[") + payload.count(b"{") > most_values:
        raise Misshapen("expected at most %d values" % most_values)
    try:
        value: object = json.loads(payload.decode("utf-8"), parse_constant=_refused, parse_int=_bounded)
    except Misshapen:
        raise
    except (ValueError, RecursionError) as error:
        raise Misshapen("not JSON: %s" % str(error)[:80]) from None
    return value


def inflated(payload: bytes, most_bytes: int) -> bytes:
    """Inflate zlib data; raises Misshapen if it is damaged or holds more than ``most_bytes`` bytes."""
    inflater = zlib.decompressobj()
    try:
        found = inflater.decompress(payload, most_bytes + 1)
    except zlib.error:
        raise Misshapen("damaged: not deflated") from None
    if len(found) > most_bytes or not inflater.eof:
        raise Misshapen("damaged, or more than %d bytes" % most_bytes)
    return found


def _refused(word: str) -> NoReturn:
    raise Misshapen("%s: expected a number" % word)


def _bounded(digits: str) -> int:
    if len(digits) > 20:
        raise Misshapen("a number of %d digits: expected at most 20" % len(digits))
    return int(digits)


def fail(where: str, value: object, expected: str) -> NoReturn:
    """Raise the Misshapen that names a value and what was expected in its place."""
    shown = json.dumps(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    raise Misshapen("%s: %s: expected %s" % (where, shown, expected))


def whole(low: int = 0, high: int = MOST) -> Shape[int]:
    """Make the shape of a whole number from ``low`` to ``high``."""

    def check(value: object, where: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            fail(where, value, "a whole number from %d to %d" % (low, high))
        return value

    return check


def number(low: float = -1e15, high: float = 1e15) -> Shape[float]:
    """Make the shape of a finite number from ``low`` to ``high``."""

    def check(value: object, where: str) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            fail(where, value, "a number")
        if not math.isfinite(value) or not low <= value <= high:
            fail(where, value, "a number from %g to %g" % (low, high))
        return value

    return check


def flag(value: object, where: str) -> bool:
    """Check for true or false."""
    if not isinstance(value, bool):
        fail(where, value, "true or false")
    return value


def text(most: int = 4096) -> Shape[str]:
    """Make the shape of text of at most ``most`` characters."""

    def check(value: object, where: str) -> str:
        if not isinstance(value, str) or len(value) > most:
            fail(where, value, "text of at most %d characters" % most)
        return value

    return check


def word(pattern: str) -> Shape[str]:
    """Make the shape of text that a regular expression matches from end to end, at most 4096 characters."""
    compiled = re.compile(pattern)

    def check(value: object, where: str) -> str:
        if not isinstance(value, str) or len(value) > 4096 or compiled.fullmatch(value) is None:
            fail(where, value, "text like %s" % pattern)
        return value

    return check


def one_of(*choices: T) -> Shape[T]:
    """Make the shape of one of ``choices``, which must match in value and type."""

    def check(value: object, where: str) -> T:
        for choice in choices:
            if value == choice and type(value) is type(choice):
                return choice
        fail(where, value, "one of " + ", ".join(map(str, choices)))

    return check


def maybe(shape: Shape[T]) -> Shape[T | None]:
    """Make the shape of a value of ``shape``, or null."""
    return lambda value, where: None if value is None else shape(value, where)


def many(shape: Shape[T], most: int = 4096) -> Shape[tuple[T, ...]]:
    """Make the shape of a list of at most ``most`` values of ``shape``."""

    def check(value: object, where: str) -> tuple[T, ...]:
        if not isinstance(value, (list, tuple)) or len(value) > most:
            fail(where, value, "a list of at most %d" % most)
        return tuple([shape(item, "%s[%d]" % (where, number)) for number, item in enumerate(value)])

    return check


def row(*shapes: Shape[Any]) -> Shape[Any]:
    """Make the shape of a list that holds exactly one value of each of ``shapes``, in this order."""

    def check(value: object, where: str) -> Any:
        if not isinstance(value, (list, tuple)) or len(value) != len(shapes):
            fail(where, value, "a list of %d" % len(shapes))
        return tuple([shape(item, "%s[%d]" % (where, n)) for n, (shape, item) in enumerate(zip(shapes, value))])

    return check


def table(shape: Shape[T], most: int = 4096, key: Shape[str] | None = None) -> Shape[dict[str, T]]:
    """Make the shape of an object with at most ``most`` keys, all values of one shape; keys of shape ``key``."""
    named = key or text(256)

    def check(value: object, where: str) -> dict[str, T]:
        if not isinstance(value, dict) or len(value) > most:
            fail(where, value, "an object of at most %d keys" % most)
        return {named(name, where): shape(item, "%s.%s" % (where, name[:40])) for name, item in value.items()}

    return check


def either(first: Shape[T], second: Shape[U]) -> Shape[T | U]:
    """Make the shape of a value that ``first`` accepts, or else ``second``."""

    def check(value: object, where: str) -> T | U:
        try:
            return first(value, where)
        except Misshapen:
            return second(value, where)

    return check
