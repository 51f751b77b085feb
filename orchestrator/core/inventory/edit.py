"""Change one value of a hosts file and keep every other character, comments included."""

from __future__ import annotations

import ipaddress
import re

import yaml

from orchestrator.core.inventory import strictyaml
from orchestrator.errors import UsageError

# Stricter than the kernel: other characters are not used in practice, and "$" has a meaning in hosts files.
_INTERFACE = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@+-]{0,14}\Z")
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")


def set_host_value(text: str, host: str, key: str, value: str) -> str:
    """Return ``text`` with ``hosts.<host>.<key>`` set to ``value``.

    ``key`` is ``interface`` or ``fabric_address``. The value may come from a node and is not trusted. Raises
    UsageError if the value does not fit the key, if the host has no keys of its own (hosts of a range share
    theirs), or if the edit would change anything else.
    """
    if not (is_interface(value) if key == "interface" else _is_address(value)):
        raise UsageError(
            f"hosts.{host}.{key}: {ascii(value)[:60]} is not a valid {key.replace('_', ' ')}",
            remedy="the file is unchanged; list the host's interfaces with: ip address",
        )
    changed = _spliced(text, host, key, _scalar(value))
    if not _sets_only(text, changed, host, key, value):
        raise UsageError(
            f"hosts.{host}.{key}: {value!r} cannot be set without changing something else",
            remedy="set it by hand",
        )
    return changed


def _sets_only(text: str, changed: str, host: str, key: str, value: str) -> bool:
    """Parse both texts and return whether they differ in this one value only; a splice may parse otherwise."""
    try:
        before, after = strictyaml.load(text), strictyaml.load(changed)
    except strictyaml.StrictYamlError:
        return False
    hosts = before["hosts"]
    return bool(after == {**before, "hosts": {**hosts, host: {**hosts[host], key: value}}})


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


def is_interface(value: str) -> bool:
    """Return whether ``value`` is an interface name; ``auto`` is none, since hosts files read it as absent."""
    return _INTERFACE.match(value) is not None and value not in (".", "..", "auto")


def _is_address(value: str) -> bool:
    try:
        return bool(ipaddress.ip_address(value)) and "%" not in value
    except ValueError:
        return False


def _scalar(value: str) -> str:
    """Return ``value`` as a YAML scalar, quoted unless YAML reads the bare word as that same string."""
    return value if _PLAIN.match(value) and yaml.safe_load(value) == value else f"'{value}'"
