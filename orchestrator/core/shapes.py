"""The door for what a node sends: JSON within limits, of a shape that is written down.

A shape is a function ``(value, where) -> value`` that raises ``Misshapen`` for what is not of its kind. Records
keep only the keys that they know, so nothing else of a message gets any further.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

Shape = Callable[[Any, str], Any]
# Of one message, unless whoever asked says otherwise: bytes of JSON, and values in it.
MOST_BYTES, MOST_VALUES = 1 << 20, 200_000
# Whole numbers stay within what JSON readers agree on.
MOST = 1 << 53


class Misshapen(ValueError):
    """Something that came in is not what it should be; the message says where and how."""


def decoded(payload: bytes, most_bytes: int = MOST_BYTES, most_values: int = MOST_VALUES) -> Any:
    """The value of some JSON; raises Misshapen if it is none or larger than that.

    Commas and brackets bound how many values there are before any is made.
    """
    if len(payload) > most_bytes:
        raise Misshapen(f"{len(payload)} bytes: expected at most {most_bytes}")
    if payload.count(b",") + payload.count(b"[") + payload.count(b"{") > most_values:
        raise Misshapen(f"expected at most {most_values} values")
    try:
        return json.loads(payload.decode("utf-8"), parse_constant=_refused, parse_int=_bounded)
    except Misshapen:
        raise
    except (ValueError, RecursionError) as error:
        raise Misshapen(f"not JSON: {str(error)[:80]}") from None


def inflated(payload: bytes, most_bytes: int) -> bytes:
    """What deflated bytes hold; raises Misshapen if that is damaged, or more than ``most_bytes``."""
    inflater = zlib.decompressobj()
    try:
        found = inflater.decompress(payload, most_bytes + 1)
    except zlib.error:
        raise Misshapen("damaged: not deflated") from None
    if len(found) > most_bytes or not inflater.eof:
        raise Misshapen(f"damaged, or more than {most_bytes} bytes")
    return found


def _refused(word: str) -> NoReturn:
    raise Misshapen(f"{word}: expected a number")


def _bounded(digits: str) -> int:
    if len(digits) > 20:
        raise Misshapen(f"a number of {len(digits)} digits")
    return int(digits)


def _fail(where: str, value: object, expected: str) -> NoReturn:
    shown = json.dumps(value) if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    raise Misshapen(f"{where}: {shown}: expected {expected}")


def whole(low: int = 0, high: int = MOST) -> Shape:
    """A whole number within bounds."""

    def check(value: Any, where: str) -> Any:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            _fail(where, value, f"a whole number from {low} to {high}")
        return value

    return check


def number(low: float = -1e15, high: float = 1e15) -> Shape:
    """A finite number within bounds."""

    def check(value: Any, where: str) -> Any:
        known = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not known or not math.isfinite(value) or not low <= value <= high:
            _fail(where, value, "a number")
        return value

    return check


def flag(value: Any, where: str) -> Any:
    """true or false."""
    if not isinstance(value, bool):
        _fail(where, value, "true or false")
    return value


def text(most: int = 4096) -> Shape:
    """Text of at most so many characters."""

    def check(value: Any, where: str) -> Any:
        if not isinstance(value, str) or len(value) > most:
            _fail(where, value, f"text of at most {most} characters")
        return value

    return check


def word(pattern: str) -> Shape:
    """Text that a regular expression matches, all of it."""
    compiled = re.compile(pattern)

    def check(value: Any, where: str) -> Any:
        if not isinstance(value, str) or len(value) > 4096 or compiled.fullmatch(value) is None:
            _fail(where, value, f"text like {pattern}")
        return value

    return check


def one_of(*choices: Any) -> Shape:
    """One of some values."""

    def check(value: Any, where: str) -> Any:
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            _fail(where, value, f"one of {', '.join(map(str, choices))}")
        return value

    return check


def maybe(shape: Shape) -> Shape:
    """null, or what the shape says."""
    return lambda value, where: None if value is None else shape(value, where)


def many(shape: Shape, most: int = 4096) -> Shape:
    """A list of at most so many."""

    def check(value: Any, where: str) -> Any:
        if not isinstance(value, list) or len(value) > most:
            _fail(where, value, f"a list of at most {most}")
        return [shape(item, f"{where}[{number}]") for number, item in enumerate(value)]

    return check


def row(*shapes: Shape) -> Shape:
    """A list of exactly these."""

    def check(value: Any, where: str) -> Any:
        if not isinstance(value, list) or len(value) != len(shapes):
            _fail(where, value, f"a list of {len(shapes)}")
        return [shape(item, f"{where}[{n}]") for n, (shape, item) in enumerate(zip(shapes, value, strict=True))]

    return check


def table(shape: Shape, most: int = 4096, key: Shape = text(256)) -> Shape:  # noqa: B008
    """An object of any keys, of at most so many."""

    def check(value: Any, where: str) -> Any:
        if not isinstance(value, dict) or len(value) > most:
            _fail(where, value, f"an object of at most {most} keys")
        return {key(name, where): shape(item, f"{where}.{name[:40]}") for name, item in value.items()}

    return check


def record(shapes: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None) -> Shape:
    """An object with these keys; the optional ones may be absent, and others are left out."""

    def check(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            _fail(where, value, "an object")
        found = {}
        for name, shape in shapes.items():
            if name not in value:
                raise Misshapen(f"{where}: expected the key {name}")
            found[name] = shape(value[name], f"{where}.{name}")
        for name, shape in (optional or {}).items():
            if name in value:
                found[name] = shape(value[name], f"{where}.{name}")
        return found

    return check


def either(*shapes: Shape) -> Shape:
    """The first of some shapes that fits."""

    def check(value: Any, where: str) -> Any:
        problem = Misshapen(f"{where}: no shape")
        for shape in shapes:
            try:
                return shape(value, where)
            except Misshapen as error:
                problem = error
        raise problem

    return check


def tagged(key: str, kinds: Mapping[str, Shape]) -> Shape:
    """An object of one of several kinds; ``key`` says which, and is kept."""

    def check(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            _fail(where, value, "an object")
        kind = value.get(key)
        if not isinstance(kind, str) or kind not in kinds:
            _fail(f"{where}.{key}", kind, f"one of {', '.join(kinds)}")
        return {key: kind, **kinds[kind](value, where)}

    return check
