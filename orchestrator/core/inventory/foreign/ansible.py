"""An Ansible inventory: groups of hosts with variables, and what these are as keys of ``hosts.yaml``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.inventory.foreign.gathering import MOST_HOSTS, Gathering
from orchestrator.core.inventory.foreign.imported import Imported
from orchestrator.core.inventory.foreign.located import Tagged
from orchestrator.core.inventory.foreign.ssh_arguments import parse_arguments
from orchestrator.core.inventory.hostrange import folded
from orchestrator.core.text.counted import counted

KIND = "Ansible inventory"
_KEYS = {
    "ansible_host": "address",
    "ansible_ssh_host": "address",
    "ansible_user": "user",
    "ansible_ssh_user": "user",
    "ansible_port": "port",
    "ansible_ssh_port": "port",
    "ansible_ssh_private_key_file": "identity_file",
    "ansible_private_key_file": "identity_file",
    "ansible_python_interpreter": "python",
}
_ARGUMENTS = ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args")
_OVER_SSH = ("ssh", "smart", "paramiko", "paramiko_ssh", "ansible.builtin.ssh")
_SECRET = re.compile(r"pass(?:word|wd|phrase)?\Z", re.IGNORECASE)
# Groups that every inventory has.
_IMPLIED = ("all", "ungrouped")
_PIECE = re.compile(r"\[([A-Za-z0-9]+):([A-Za-z0-9]+)(?::(\d{1,4}))?\]", re.ASCII)
_MOST_GROUPS = 8
# Longest expression for --nodes that a note spells out.
_LONGEST = 80


@dataclass(frozen=True)
class Variable:
    """A variable's value, and the line that sets it."""

    value: Any
    line: int


Variables = dict[str, Variable]


@dataclass
class Group:
    """A group: its hosts and child groups in the order of the file, and its variables."""

    hosts: dict[str, int] = field(default_factory=dict)
    children: dict[str, int] = field(default_factory=dict)
    variables: Variables = field(default_factory=dict)


@dataclass
class AnsibleInventory:
    """The groups by name, and the variables that hosts have of their own. Hosts are in the order of the file."""

    gathering: Gathering
    groups: dict[str, Group] = field(default_factory=lambda: {"all": Group()})
    hosts: dict[str, Variables] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    def group(self, name: str) -> Group:
        """Return a group, a new one if the name is new."""
        return self.groups.setdefault(name, Group())

    def add(self, group: str, pattern: str, variables: Mapping[str, Variable], line: int) -> None:
        """Add the hosts of a pattern such as ``www[01:50].example.com`` to a group."""
        expanded = self._expanded(pattern, line)
        for name in expanded:
            self.hosts.setdefault(name, {}).update(variables)
            self.lines.setdefault(name, line)
            self.group(group).hosts.setdefault(name, line)
        self.gathering.check_size(line, len(self.hosts))

    def imported(self) -> Imported:
        """Return the hosts that are reached over SSH. Raises InventoryError."""
        self._check_children()
        members = {} if self.gathering.problems else self._members()
        for name, line in self.lines.items() if members else ():
            inherited = [self.groups[each].variables for each, hosts in members.items() if name in hosts]
            variables: Variables = {}
            for each in (*inherited, self.hosts[name]):
                variables.update(each)
            _add_host(self.gathering, name, line, variables)
        self.gathering.leave_out_jump_hosts()
        self._note_others()
        self._note_groups(members)
        return self.gathering.imported()

    def _check_children(self) -> None:
        """Record a mistake for a group that contains itself, and for groups that no section describes."""
        for name, group in self.groups.items():
            for child, line in group.children.items():
                if child not in self.groups:
                    self.gathering.mistake(line, child, "the name of a group that has a section")
                elif name in self._below(child):
                    self.gathering.mistake(line, child, f"a group that does not contain {name}")
                    return

    def _below(self, name: str) -> set[str]:
        """Return a group and all groups below it."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            each = waiting.pop()
            if each not in found:
                found.add(each)
                waiting += self.groups[each].children if each in self.groups else ()
        return found

    def _members(self) -> dict[str, set[str]]:
        """Return the hosts in and below each group, parents before their children; of equals, the name decides."""
        depths = dict.fromkeys(self.groups, 1)
        depths["all"] = 0
        for _ in self.groups:
            for name, group in self.groups.items():
                for child in group.children:
                    depths[child] = max(depths[child], depths[name] + 1)
        ranked = sorted(self.groups, key=lambda name: (depths[name], name))
        found = {name: {h for each in self._below(name) for h in self.groups[each].hosts} for name in ranked}
        return {**found, "all": set(self.hosts)}

    def _expanded(self, pattern: str, line: int) -> list[str]:
        """Return the hosts of a pattern: ranges of numbers or letters, both ends included, with a step."""
        found = [""]
        position = 0
        for match in _PIECE.finditer(pattern):
            choices = _choices(*match.groups())
            if not choices or len(found) * len(choices) > MOST_HOSTS:
                self.gathering.mistake(
                    line, pattern, f"a range such as [01:50] or [a:f], at most {MOST_HOSTS} hosts"
                )
                return []
            found = [f"{each}{pattern[position : match.start()]}{choice}" for each in found for choice in choices]
            position = match.end()
        rest = pattern[position:]
        if "[" in rest or "]" in rest:
            self.gathering.mistake(line, pattern, "a host or a range such as www[01:50].example.com")
            return []
        return [f"{each}{rest}" for each in found]

    def _note_others(self) -> None:
        """Note the variables that only Ansible has a use for."""
        everywhere = [*self.hosts.values(), *(group.variables for group in self.groups.values())]
        own = sorted({name for each in everywhere for name in each if not name.startswith("ansible_")})
        if own:
            shown = ", ".join(own[:6]) + (", ..." if len(own) > 6 else "")
            self.gathering.note(0, f"variables of your own are not carried over: {shown}")

    def _note_groups(self, members: Mapping[str, set[str]]) -> None:
        """Note the groups, with the ``--nodes`` that choose the same hosts."""
        chosen = self.gathering.hosts
        inside = {name: [host for host in chosen if host in hosts] for name, hosts in members.items()}
        some = {name: hosts for name, hosts in inside.items() if 0 < len(hosts) < len(chosen)}
        for name, hosts in list(some.items())[:_MOST_GROUPS]:
            if name not in _IMPLIED:
                short = folded(hosts)
                how = (
                    f"'{short}'"
                    if len(short) < _LONGEST
                    else f"and the names of its {counted(len(hosts), 'host')}"
                )
                self.gathering.note(0, f"the group {name} is not carried over: choose it with --nodes {how}")
        if len(some) > _MOST_GROUPS:
            self.gathering.note(0, f"not carried over: {counted(len(some) - _MOST_GROUPS, 'further group')}")


def _choices(first: str, last: str, step: str | None) -> list[str]:
    stride = int(step or 1)
    if not stride:
        return []
    if first.isdigit() and last.isdigit() and len(first) < 10 and len(last) < 10:
        width = len(first) if first.startswith("0") else 0
        if int(last) - int(first) >= MOST_HOSTS * stride:
            return []
        return [str(number).zfill(width) for number in range(int(first), int(last) + 1, stride)]
    if len(first) == len(last) == 1 and first.isalpha() and last.isalpha():
        return [chr(code) for code in range(ord(first), ord(last) + 1, stride) if chr(code).isalpha()]
    return []


def _add_host(gathering: Gathering, name: str, line: int, variables: Variables) -> None:
    connection = variables.get("ansible_connection", Variable("ssh", 0))
    if connection.value not in _OVER_SSH:
        gathering.note(
            connection.line, f"the host {name} is left out: its connection is {connection.value}, not ssh"
        )
        return
    keys: dict[str, Any] = {}
    for variable in (each for each in _ARGUMENTS if each in variables):
        keys.update(_of_arguments(gathering, variable, variables[variable]))
    for variable, each in variables.items():
        if variable.startswith("ansible_") and variable not in (*_ARGUMENTS, "ansible_connection"):
            _add_key(gathering, keys, variable, each)
    named, colon, port = name.rpartition(":")
    if colon and ":" not in named and port.isdigit():
        # ``host:port`` is Ansible's short form of ansible_port.
        name, keys = named, {"port": port, **keys}
    address = keys.pop("address", name)
    gathering.add(line, name, keys if address == name else {"address": address, **keys})


def _add_key(gathering: Gathering, keys: dict[str, Any], variable: str, given: Variable) -> None:
    """Set the key that a variable stands for, or note that there is none."""
    key, value, line = _KEYS.get(variable), given.value, given.line
    if value is None:
        return
    if isinstance(value, Tagged) or (isinstance(value, str) and "$ANSIBLE_VAULT" in value):
        gathering.note(line, f"{variable} is not carried over: it is encrypted with Ansible Vault")
    elif _SECRET.search(variable):
        gathering.note(line, f"{variable} is not carried over: orch keeps no passwords; orch keys installs a key")
    elif isinstance(value, str) and "{{" in value and key == "address":
        gathering.mistake(line, value, "an address; templates are only evaluated by Ansible")
    elif isinstance(value, str) and ("{{" in value or "{%" in value):
        gathering.note(line, f"{variable} is not carried over: {value!r} is a template")
    elif key == "python" and str(value).startswith("auto"):
        return
    elif key is not None:
        text = str(value) if isinstance(value, int) else value
        if gathering.fits(line, key, text):
            keys[key] = text
    elif variable.startswith("ansible_become"):
        gathering.note(line, f"{variable} is not carried over: orch runs nothing as another user")
    else:
        gathering.note(line, f"{variable} is not carried over")


def _of_arguments(gathering: Gathering, variable: str, given: Variable) -> dict[str, Any]:
    """Return the keys that arguments of ssh stand for, and note the other arguments."""
    value, line = given.value, given.line
    if not isinstance(value, str) or "{{" in value:
        gathering.note(line, f"{variable} is not carried over: it is no plain text")
        return {}
    try:
        found = parse_arguments(value)
    except ValueError:
        gathering.mistake(line, value, f"{variable}: arguments of ssh, with quotes that match")
        return {}
    for each in dict.fromkeys(found.left):
        keys = each.lower() in ("stricthostkeychecking", "userknownhostsfile")
        why = ": orch always checks host keys" if keys else ""
        gathering.note(line, f"{each} of {variable} is not carried over{why}")
    return {key: each for key, each in found.keys.items() if gathering.fits(line, key, each)}
