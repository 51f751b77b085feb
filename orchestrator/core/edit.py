"""Change one value of a hosts file and leave every other character, comments too, as it is."""

from __future__ import annotations

import yaml

from orchestrator.core import strictyaml
from orchestrator.errors import UsageError


def set_host_key(text: str, host: str, key: str, value: str) -> str:
    """The text with ``hosts.<host>.<key>`` set to ``value``, and nothing else changed; raises UsageError if not.

    A host that is one of a range has no keys of its own: a change would be all of the range's.
    """
    changed = _spliced(text, host, key, yaml.safe_dump(value, width=1000).removesuffix("...\n").strip())
    try:
        before, after = strictyaml.load(text), strictyaml.load(changed)
        before["hosts"][host][key] = value
    except (strictyaml.StrictYamlError, LookupError, TypeError):
        after = before = None
    if after is None or after != before:
        raise UsageError(
            f"hosts.{host}.{key}: {value!r} cannot be set without changing something else",
            remedy="set it by hand",
        )
    return changed


def _spliced(text: str, host: str, key: str, value: str) -> str:
    root = yaml.compose(text)
    hosts = _value(root, "hosts")
    entry = _value(hosts, host) if hosts is not None else None
    if not isinstance(entry, yaml.MappingNode) or not entry.value:
        raise UsageError(f"hosts.{host} has no keys of its own to change", remedy=f"add {key}: {value} by hand")
    present = _value(entry, key)
    if present is not None:
        return text[: present.start_mark.index] + value + text[present.end_mark.index :]
    first = entry.value[0][0].start_mark
    separator = ", " if entry.flow_style else "\n" + " " * first.column
    return f"{text[: first.index]}{key}: {value}{separator}{text[first.index :]}"


def _value(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)
