"""Add hosts to the text of a hosts file, and keep every character that is there, comments included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from orchestrator.core.inventory import strictyaml
from orchestrator.core.inventory.draft.compose import Draft, host_lines


def with_hosts(text: str, hosts: Mapping[str, Mapping[str, Any]], comments: Mapping[str, str]) -> str | None:
    """Return the text of a valid hosts file with further hosts after its own.

    None if the hosts of the file are written in a style that takes no further lines.
    """
    spliced = _spliced(text, hosts, comments)
    if spliced is None:
        return None
    before = Draft.of(strictyaml.load(text))
    try:
        after = Draft.of(strictyaml.load(spliced))
    except strictyaml.StrictYamlError:
        return None
    wanted = {**before.hosts, **hosts}
    same = list(after.hosts.items()) == list(wanted.items())
    return spliced if same and (after.defaults, after.top) == (before.defaults, before.top) else None


def _spliced(text: str, hosts: Mapping[str, Mapping[str, Any]], comments: Mapping[str, str]) -> str | None:
    root = strictyaml.compose(text)
    known = next((value for key, value in root.value if key.value == "hosts"), None) if root else None
    if not isinstance(known, yaml.CollectionNode) or known.flow_style or not known.value:
        return None
    indent = " " * known.start_mark.column
    if isinstance(known, yaml.MappingNode):
        lines = [
            line for name, keys in hosts.items() for line in host_lines(name, keys, comments.get(name, ""), indent)
        ]
    elif not any(hosts.values()):
        lines = [f"{indent}- {name}" for name in hosts]
    else:
        return None
    end = _end(known)
    if text[end - 1] != "\n":
        end = text.find("\n", end) + 1 or len(text)
    separator = "" if text[end - 1] == "\n" else "\n"
    return text[:end] + separator + "".join(f"{line}\n" for line in lines) + text[end:]


def _end(node: yaml.Node) -> int:
    """Return where a node's last value ends: a block's own mark is where the next token begins."""
    while isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        node = last[1] if isinstance(last, tuple) else last
    return int(node.end_mark.index)
