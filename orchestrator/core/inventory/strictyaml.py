"""Load YAML safely and strictly: duplicate keys, a second document and runaway aliases are errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml


class StrictYamlError(ValueError):
    """The text is not YAML that we accept; the message is one line."""


# Most values in a document once its aliases are expanded. A host has about a dozen.
MOST_VALUES = 200_000


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys, anchors that contain themselves and aliases that expand too far."""

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _size(node, {}, set()) > MOST_VALUES:
            raise _located(f"the document has more than {MOST_VALUES} values once its aliases are expanded", node)
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            try:
                repeated = key in seen
            except TypeError:
                raise _located("a key must be a plain word", key_node) from None
            if repeated:
                raise _located(f"the key {key!r} is given twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def load(text: str) -> Any:
    """Return the document's value; raises StrictYamlError for anything but one plain YAML document."""
    with _translated():
        return yaml.load(text, Loader=_Loader)


def compose(text: str) -> yaml.Node | None:
    """Return the document's root node, whose tags may be unknown; raises StrictYamlError as ``load`` does."""
    with _translated():
        loader = _Loader(text)
        try:
            return loader.get_single_node()
        finally:
            loader.dispose()


@contextmanager
def _translated() -> Iterator[None]:
    """Raise what PyYAML raises as StrictYamlError."""
    try:
        yield
    except StrictYamlError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise StrictYamlError(where + _one_line(error.problem or error.context or "not YAML")) from None
    except RecursionError:
        raise StrictYamlError("the document is nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
        # PyYAML's constructors raise these for odd dates, numbers and keys.
        raise StrictYamlError(_one_line(str(error) or "not YAML")) from None


def _size(node: yaml.Node, known: dict[int, int], above: set[int]) -> int:
    """Return how many values a node holds, counting each alias as often as it is used."""
    if id(node) in above:
        raise _located("an anchor contains itself", node)
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        above.add(id(node))
        inner = (
            [each for pair in node.value for each in pair] if isinstance(node, yaml.MappingNode) else node.value
        )
        known[id(node)] = 1 + sum(_size(each, known, above) for each in inner)
        above.discard(id(node))
    return known[id(node)]


def _located(problem: str, node: yaml.Node) -> StrictYamlError:
    mark = node.start_mark
    return StrictYamlError(f"line {mark.line + 1}, column {mark.column + 1}: {_one_line(problem)}")


def _one_line(text: str) -> str:
    return " ".join(text.split())
