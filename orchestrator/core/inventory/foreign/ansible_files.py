"""The two forms of an Ansible inventory's file, INI and YAML."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Mapping
from typing import Any

import yaml

from orchestrator.core.inventory.foreign.ansible import KIND, AnsibleInventory, Variable
from orchestrator.core.inventory.foreign.gathering import Gathering
from orchestrator.core.inventory.foreign.imported import Imported
from orchestrator.core.inventory.foreign.located import entries, root_of

_SECTION = re.compile(r"\[([^\]:\s]+)(?::(\w+))?\]\s*(?:[#;].*)?\Z")
_YAML = re.compile(r"^(?:---|[\w.-]+:\s*(?:#.*)?$)", re.MULTILINE)
_DEEPEST = 64


def parse_ansible(texts: Mapping[str, str]) -> Imported:
    """Return the hosts of an inventory in INI or YAML. Raises InventoryError."""
    ((source, text),) = texts.items()
    inventory = AnsibleInventory(Gathering(KIND, source))
    if text.lstrip().startswith("{"):
        inventory.gathering.say(f"{source}: JSON: expected what ansible-inventory --list --yaml prints")
        raise inventory.gathering.error()
    if _YAML.search(text) and not any(_SECTION.match(line.strip()) for line in text.splitlines()):
        _read_yaml(inventory, text)
    else:
        _read_ini(inventory, text)
    return inventory.imported()


def _read_ini(inventory: AnsibleInventory, text: str) -> None:
    group, part = "ungrouped", "hosts"
    for number, whole in enumerate(text.splitlines(), 1):
        line = whole.strip()
        if not line or line[0] in "#;":
            continue
        if line[0] == "[" and "=" not in line:
            section = _SECTION.match(line)
            if section is None or section.group(2) not in (None, "vars", "children"):
                inventory.gathering.mistake(number, line, "[group], [group:vars] or [group:children]")
                part = "unknown"
                continue
            group, part = section.group(1), section.group(2) or "hosts"
            inventory.group(group)
        elif part == "children":
            inventory.group(group).children.setdefault(line.split("#")[0].strip(), number)
        elif part == "vars":
            name, equals, value = line.partition("=")
            if equals:
                inventory.group(group).variables[name.strip()] = Variable(_literal(value.strip()), number)
            else:
                inventory.gathering.mistake(number, line, "NAME=VALUE")
        elif part == "hosts":
            _read_host(inventory, group, line, number)


def _read_host(inventory: AnsibleInventory, group: str, line: str, number: int) -> None:
    try:
        pattern, *settings = shlex.split(line, comments=True)
    except ValueError:
        inventory.gathering.mistake(number, line, "a host and its variables, with quotes that match")
        return
    variables = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            inventory.gathering.mistake(number, setting, "NAME=VALUE after the host")
            return
        variables[name] = Variable(_literal(value), number)
    inventory.add(group, pattern, variables, number)


def _literal(text: str) -> Any:
    """Return the number or the text that a value in INI is; like Ansible, without the quotes around it."""
    if re.fullmatch(r"(['\"]).*\1", text):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return text
        return value if isinstance(value, str) else text
    return text


def _read_yaml(inventory: AnsibleInventory, text: str) -> None:
    root = root_of(inventory.gathering, text)
    if root is not None:
        for each in entries(inventory.gathering, root, "the file"):
            _read_group(inventory, each.key, each.node, _DEEPEST)


def _read_group(inventory: AnsibleInventory, name: str, node: yaml.Node, deepest: int) -> None:
    gathering, group = inventory.gathering, inventory.group(name)
    if not deepest:
        gathering.mistake(0, name, f"groups that are nested at most {_DEEPEST} deep")
        return
    for each in entries(gathering, node, f"the group {name}"):
        if each.key == "hosts":
            for host in entries(gathering, each.node, f"hosts of {name}"):
                found = entries(gathering, host.node, f"variables of {host.key}")
                inventory.add(name, host.key, {one.key: Variable(one.value, one.line) for one in found}, host.line)
        elif each.key == "vars":
            for one in entries(gathering, each.node, f"vars of {name}"):
                group.variables[one.key] = Variable(one.value, one.line)
        elif each.key == "children":
            for child in entries(gathering, each.node, f"children of {name}"):
                group.children.setdefault(child.key, child.line)
                _read_group(inventory, child.key, child.node, deepest - 1)
        else:
            gathering.mistake(each.line, each.key, f"hosts, children or vars in the group {name}")
