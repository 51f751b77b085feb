"""Fold what is said of several hosts: equal texts, and texts that differ only in a host's name and address."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orchestrator.core.inventory.hostrange import folded
from orchestrator.errors import HostErrors, OrchError

# Most values that a folded message lists in one place.
_MOST = 4
_GAP = "\0"
# A machine as messages and commands name it: after a user's name, as a number, or as a name to resolve.
_MACHINE = (
    r"(?<=@)\[?[\w.:%-]*\w\]?|(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?(?![\w.]*\w)"
    r"|(?<=the name ')[^']+|(?<= -p )\d{1,5}"
)
_PORT = re.compile(r":\d{1,5}\Z")


@dataclass(frozen=True)
class Said:
    """A message and its remedy, said of ``hosts``."""

    hosts: tuple[str, ...]
    message: str
    remedy: str = ""

    def __str__(self) -> str:
        """Return hosts, message and remedy in one line."""
        where = f"{folded(self.hosts)}: " if self.hosts else ""
        return f"{where}{self.message}" + (f" → {self.remedy}" if self.remedy else "")


def alike(said: Iterable[Said]) -> tuple[Said, ...]:
    """Return what is said, once for all hosts of which it is the same.

    Messages that differ only in the host's name and address become one that lists these. Their remedies may hold
    commands, which must stay as they can be typed: the first host's is kept, and the hosts with the like named.
    """
    equal: dict[tuple[str, str], list[str]] = {}
    for each in said:
        equal.setdefault((each.message, each.remedy), []).extend(each.hosts)
    similar: dict[tuple[str, ...], list[tuple[Said, list[str]]]] = {}
    for (message, remedy), hosts in equal.items():
        one = Said(tuple(hosts), message, remedy)
        shape, values = _shape(one)
        similar.setdefault(shape, []).append((one, values))
    return tuple(_merged(group) for group in similar.values())


def of_errors(errors: Iterable[OrchError]) -> tuple[Said, ...]:
    """Return what errors say, folded. The errors in HostErrors count as errors of their own."""
    each = [one for error in errors for one in (error.errors if isinstance(error, HostErrors) else (error,))]
    return alike(Said((one.host,) if one.host else (), one.message, one.remedy or "") for one in each)


def _shape(one: Said) -> tuple[tuple[str, ...], list[str]]:
    """Return what is said without the host's name and address, and these, as they stand in the message."""
    if len(one.hosts) != 1 or _GAP in one.message + one.remedy:
        return (one.message, one.remedy, *one.hosts), []
    (host,) = one.hosts
    named = re.compile(rf"{_MACHINE}|(?<![\w.-]){re.escape(host)}(?![\w-])")
    return (named.sub(_GAP, one.message), named.sub(_GAP, one.remedy)), named.findall(one.message)


def _merged(group: Sequence[tuple[Said, list[str]]]) -> Said:
    first = group[0][0]
    if len(group) == 1:
        return first
    hosts = tuple(host for one, _ in group for host in one.hosts)
    pieces = _shape(first)[0][0].split(_GAP)
    places = [_listed(values) for values in zip(*(values for _, values in group), strict=True)]
    message = "".join(f"{piece}{place}" for piece, place in zip(pieces, [*places, ""], strict=True))
    remedies = dict.fromkeys(one.remedy for one, _ in group)
    others = folded([host for one, _ in group[1:] for host in one.hosts])
    return Said(hosts, message, first.remedy if len(remedies) == 1 else f"{first.remedy} (likewise for {others})")


def _listed(values: Sequence[str]) -> str:
    """Return the values in one word, such as ``10.0.0.[1-3]:22`` or ``{a.example,b.example}:22``."""
    ports = [match.group() if (match := _PORT.search(value)) else "" for value in values]
    machines = [value.removesuffix(port) for value, port in zip(values, ports, strict=True)]
    return _word(machines) + _word(ports)


def _word(values: Sequence[str]) -> str:
    several = list(dict.fromkeys(values))
    short = folded(several)
    if short.count("[") <= 1 and (len(several) == 1 or short.endswith("]")):
        return several[0] if len(several) == 1 else short
    return "{" + ",".join([*several[:_MOST], *(["..."] if len(several) > _MOST else [])]) + "}"
