"""YAML whose keys know their line, and whose unknown tags are values, not errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from orchestrator.core.inventory import strictyaml
from orchestrator.core.inventory.foreign.gathering import Gathering

_PLACE = re.compile(r"line (\d+), column \d+: ")


@dataclass(frozen=True)
class Tagged:
    """A value under a tag that only another tool understands, such as ``!vault``."""

    tag: str


@dataclass(frozen=True)
class Entry:
    """A key, its line, and the node of its value."""

    key: str
    line: int
    node: yaml.Node

    @property
    def value(self) -> Any:
        """The value of a scalar: text, a number, a boolean or None; other nodes are described, None if empty."""
        return _value(self.node)


def root_of(gathering: Gathering, text: str) -> yaml.Node | None:
    """Return the document's root; record a mistake, and return None, if it is not YAML or empty."""
    try:
        root = strictyaml.compose(text)
    except strictyaml.StrictYamlError as error:
        place = _PLACE.match(str(error))
        line, problem = (int(place.group(1)), str(error)[place.end() :]) if place else (0, str(error))
        gathering.say(f"{gathering.at(line)}: {problem}: expected YAML")
        return None
    if root is None:
        gathering.say(f"{gathering.source}: the file is empty: expected a {gathering.kind}")
    return root


def entries(gathering: Gathering, node: yaml.Node, what: str) -> Iterator[Entry]:
    """Yield the entries of a mapping; record a mistake if ``node`` is none, or has a key twice. Null is empty."""
    if isinstance(node, yaml.ScalarNode) and _value(node) is None:
        return
    if not isinstance(node, yaml.MappingNode):
        gathering.mistake(line_of(node), _value(node), f"{what}: a mapping, NAME: and its values")
        return
    seen: set[str] = set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.value in seen:
            gathering.mistake(line_of(key), _value(key), f"{what}: a plain key that is not given twice")
            continue
        seen.add(key.value)
        yield Entry(key.value, line_of(key), value)


def line_of(node: yaml.Node) -> int:
    """Return the line that a node begins on, from 1."""
    return int(node.start_mark.line) + 1


def _value(node: yaml.Node) -> Any:
    if not node.value and not isinstance(node, yaml.ScalarNode):
        return None
    if isinstance(node, yaml.SequenceNode):
        return f"a list of {len(node.value)}"
    if not isinstance(node, yaml.ScalarNode):
        return "a mapping"
    known = yaml.SafeLoader.yaml_constructors
    if node.tag not in known:
        return Tagged(node.tag)
    try:
        return yaml.constructor.SafeConstructor().construct_object(node)
    except (yaml.YAMLError, ValueError, KeyError, OverflowError, AttributeError, IndexError, TypeError):
        return node.value
