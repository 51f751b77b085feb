"""YAML, loaded safely, with what it lets pass in silence made an error: duplicate keys, a second document."""

from __future__ import annotations

from typing import Any

import yaml


class StrictYamlError(ValueError):
    """The text is not the YAML we read; the message is one line."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, and a mapping that contains itself."""

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
    """The document's value; raises StrictYamlError for anything that is not one plain YAML document."""
    try:
        value = yaml.load(text, Loader=_Loader)
        _check_finite(value, ())
    except StrictYamlError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise StrictYamlError(where + _one_line(error.problem or error.context or "not YAML")) from None
    except RecursionError:
        raise StrictYamlError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
        # PyYAML's constructors let such exceptions through for odd dates, numbers and keys.
        raise StrictYamlError(_one_line(str(error) or "not YAML")) from None
    return value


def _check_finite(value: Any, above: tuple[int, ...]) -> None:
    """Raises StrictYamlError for a value that contains itself through an anchor."""
    if isinstance(value, (dict, list)):
        if id(value) in above:
            raise StrictYamlError("an anchor contains itself")
        for inner in value.values() if isinstance(value, dict) else value:
            _check_finite(inner, (*above, id(value)))


def _located(problem: str, node: yaml.Node) -> StrictYamlError:
    mark = node.start_mark
    return StrictYamlError(f"line {mark.line + 1}, column {mark.column + 1}: {_one_line(problem)}")


def _one_line(text: str) -> str:
    return " ".join(text.split())
