"""Change one value of a hosts file and leave every other character, comments too, as it is."""

from __future__ import annotations

import yaml

from orchestrator.errors import UsageError


def set_host_key(text: str, host: str, key: str, value: str) -> str:
    """The text with ``hosts.<host>.<key>`` set to ``value``; raises UsageError if the host has no keys of its own.

    A host that is one of a range has none: a change would be all of the range's.
    """
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
