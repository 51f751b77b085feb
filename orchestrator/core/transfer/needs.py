"""The data that a script declares to need, in the constant ``NEEDS_DATA``, and whether its arguments excuse it."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.core.text.nearest import did_you_mean
from orchestrator.errors import UsageError

CONSTANT = "NEEDS_DATA"
KEYS = ("data", "file", "folder", "unless")


@dataclass(frozen=True)
class Need:
    """Data that a script needs on every node, either ``data`` or ``file``.

    ``data``: the name of a known data set, or a path beside the script. ``folder``: an option that names the
    folder of a node to look in, instead of ``$ORCH_DATA``. ``file``: an option that names a file of the control
    machine. ``unless``: options, ``--download`` or ``--dataset=digits``, with which nothing is needed.
    """

    data: str | None = None
    file: str | None = None
    folder: str | None = None
    unless: tuple[str, ...] = ()

    def excused(self, args: Sequence[str]) -> bool:
        """Return whether the script's arguments make the data unnecessary."""
        given = options_in(args)
        for each in self.unless:
            name, equals, value = _parted(each)
            if name in given and (not equals or given[name] == value):
                return True
        return self.file is not None and self.value(self.file, args) is None

    def value(self, option: str | None, args: Sequence[str]) -> str | None:
        """Return the value of an option among the arguments; None if it is not given."""
        return None if option is None else options_in(args).get(_parted(option)[0])

    @property
    def ways_out(self) -> str:
        """The options with which nothing is needed, for a message."""
        return " or ".join(each.replace("=", " ") for each in self.unless)


def needs_of(source: str, name: str) -> tuple[Need, ...]:
    """Return what a script declares. Raises UsageError, with line and key, if the declaration is wrong.

    ``source`` is the script's text and ``name`` its name. It is parsed, not run.
    """
    if CONSTANT not in source:
        return ()
    try:
        statements = ast.parse(source).body
    except (SyntaxError, ValueError):
        # Python's own message, on the nodes, says more.
        return ()
    for statement in statements:
        if isinstance(statement, ast.Assign):
            targets, value = statement.targets, statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets, value = [statement.target], statement.value
        else:
            continue
        if any(isinstance(target, ast.Name) and target.id == CONSTANT for target in targets):
            where = f"{name}:{statement.lineno}: {CONSTANT}"
            try:
                found = ast.literal_eval(value)
            except (ValueError, TypeError):
                raise _wrong(where, ast.unparse(value)[:80], "a list of literal values") from None
            if not isinstance(found, (list, tuple)):
                raise _wrong(where, found, 'a list such as [{"data": "mnist"}]')
            return tuple(_need(each, f"{where}[{number}]") for number, each in enumerate(found))
    return ()


def options_in(args: Sequence[str]) -> dict[str, str | None]:
    """Return the options among a script's arguments, with dashes for underscores, and the word after each.

    An option that is given twice counts as given last.
    """
    found: dict[str, str | None] = {}
    for position, word in enumerate(args):
        if word == "--":
            break
        if word.startswith("--"):
            name, equals, value = _parted(word)
            after = args[position + 1] if position + 1 < len(args) else None
            found[name] = value if equals else after if after is None or not after.startswith("--") else None
    return found


def _parted(option: str) -> tuple[str, str, str]:
    """Return an option's name, with dashes, the sign between name and value, if any, and the value."""
    name, sign, value = option.partition("=")
    return name.replace("_", "-"), sign, value


def _need(value: Any, where: str) -> Need:
    if not isinstance(value, dict):
        raise _wrong(where, value, 'a mapping such as {"data": "mnist"}')
    for key in value:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, n=1)
            raise UsageError(
                f"{where}.{key}: unknown key", remedy=did_you_mean(near[0]) if near else ", ".join(KEYS)
            )
    for key in ("data", "file", "folder"):
        if key in value and not (isinstance(value[key], str) and value[key]):
            raise _wrong(f"{where}.{key}", value[key], "a string")
    for key in ("file", "folder"):
        if key in value and not value[key].startswith("--"):
            raise _wrong(f"{where}.{key}", value[key], "the name of an option, such as --csv")
    unless = value.get("unless", [])
    if not isinstance(unless, (list, tuple)) or not all(
        isinstance(each, str) and each.startswith("--") for each in unless
    ):
        raise _wrong(f"{where}.unless", unless, 'a list of options such as ["--download", "--dataset=digits"]')
    if ("data" in value) == ("file" in value):
        raise _wrong(where, value, "either data or file")
    written = tuple(each if "=" in each else each.replace(" ", "=", 1) for each in unless)
    return Need(value.get("data"), value.get("file"), value.get("folder"), written)


def _wrong(where: str, value: Any, expected: str) -> UsageError:
    return UsageError(f"{where}: {value!r}: expected {expected}", remedy="docs/workloads.md describes it")
