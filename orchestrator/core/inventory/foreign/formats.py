"""The formats of other tools' lists of hosts: their names, their parsers, and which one a text is in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from orchestrator.core.inventory import strictyaml
from orchestrator.core.inventory.foreign.accelerate import parse_accelerate
from orchestrator.core.inventory.foreign.ansible_files import parse_ansible
from orchestrator.core.inventory.foreign.gathering import (
    WITHOUT_FILE,
    Gathering,
    is_address,
    without_comment,
    words,
)
from orchestrator.core.inventory.foreign.hostfile import parse_hostfile
from orchestrator.core.inventory.foreign.imported import Imported
from orchestrator.core.inventory.foreign.openssh import parse_openssh
from orchestrator.core.inventory.foreign.plain import parse_plain, parse_slurm
from orchestrator.core.inventory.foreign.terraform import parse_terraform
from orchestrator.core.inventory.schema import TOP_KEYS

Parser = Callable[[Mapping[str, str]], Imported]
# By the word for ``--hosts WORD:FILE``. A parser takes texts by file name, the main one first.
PARSERS: dict[str, Parser] = {
    "plain": parse_plain,
    "ssh": parse_openssh,
    "ansible": parse_ansible,
    "mpi": parse_hostfile,
    "slurm": parse_slurm,
    "terraform": parse_terraform,
    "accelerate": parse_accelerate,
}
OTHER_WORDS = {"openssh": "ssh", "deepspeed": "mpi", "hostfile": "mpi"}
# Formats that a list without a file may be in.
LISTS = ("plain", "slurm", "mpi")
# The format of ``hosts.yaml``, which has no parser here.
OWN = "orch"
_OWN_KEYS = frozenset(TOP_KEYS)
_ACCELERATE_KEYS = frozenset(
    ["compute_environment", "distributed_type", "machine_rank", "num_machines", "main_process_ip"]
)
_GROUP_KEYS = frozenset(("hosts", "children", "vars"))
_SSH = re.compile(r"^[ \t]*(?:host|match)(?:[ \t]*=[ \t]*|[ \t]+)(?![^\s=]+=)\S", re.IGNORECASE | re.MULTILINE)
_SECTION = re.compile(r"^[ \t]*\[[^\[\]:,\s]+(?::[A-Za-z]\w*)?\][ \t]*(?:[#;].*)?$", re.MULTILINE)
_ANSIBLE_VARIABLE = re.compile(r"^[^#;\n]*\sansible_\w+[ \t]*=", re.MULTILINE)
_SLOTS = re.compile(r"^[^#\n]*\s(?:slots|max[-_]?slots)=", re.MULTILINE)
_YAML = re.compile(r"^(?:---|-[ \t]|[\w\"'.-]+[ \t]*:(?:[ \t]|$)|\{|%YAML)", re.MULTILINE)
_COUNTED = re.compile(r"[^@:\[\]]+:(\d+)\Z", re.ASCII)
_MPI_NAME = re.compile(r"hostfile|machine|nodefile|mpi|deepspeed", re.IGNORECASE)
# Ports below are too rare, and numbers above too large for processes.
_PORTS_FROM, _SSH_PORT = 1024, 22


def named_format(text: str) -> tuple[str | None, str]:
    """Split ``FORMAT:REST`` into the format and the rest; the format is None if the text names none."""
    word, colon, rest = text.partition(":")
    known = OTHER_WORDS.get(word, word)
    return (known, rest) if colon and known in PARSERS else (None, text)


def is_list(text: str) -> bool:
    """Return whether ``text`` names hosts rather than a file: it has a comma, a range, a user or an address."""
    found = words(text)
    return "," in text or (len(found) == 1 and ("@" in text or "[" in text or _numeric(text)))


def detect(source: str, text: str) -> str:
    """Return the format of a text, or OWN. Raises InventoryError if it may be several, or is none.

    The content decides, and the file's name only where the content leaves a choice.
    """
    gathering = Gathering("list of hosts", source)
    if text.lstrip().startswith("$ANSIBLE_VAULT"):
        gathering.say(
            f"{gathering.at(1)}: it is encrypted with Ansible Vault: expected what ansible-vault view prints"
        )
        raise gathering.error()
    kind = _of_json(text) or _of_marks(text) or _of_yaml(text)
    if kind is None:
        kind = _of_lines(gathering, text)
    if gathering.problems:
        raise gathering.error()
    return kind


def _numeric(text: str) -> bool:
    host = re.sub(r":\d+\Z", "", text)
    return re.fullmatch(r"\d+(?:\.\d+){3}", host) is not None or (":" in text and is_address(text))


def _of_json(text: str) -> str | None:
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list):
        return "terraform"
    if "_meta" in value:
        return "ansible"
    outputs = bool(value) and all(isinstance(each, dict) and "value" in each for each in value.values())
    return "terraform" if outputs else None


def _of_marks(text: str) -> str | None:
    """Return the format that a single line gives away."""
    if _SSH.search(text) and not _YAML.search(text):
        return "ssh"
    if _SECTION.search(text) or (_ANSIBLE_VARIABLE.search(text) and not _YAML.search(text)):
        return "ansible"
    return "mpi" if _SLOTS.search(text) and not _YAML.search(text) else None


def _of_yaml(text: str) -> str | None:
    if not _YAML.search(text) and any(without_comment(line) for line in text.splitlines()):
        return None
    try:
        root = strictyaml.compose(text)
    except strictyaml.StrictYamlError:
        return "ansible" if re.search(r"^all:|^\s+ansible_\w+:", text, re.MULTILINE) else OWN
    keys = _keys(root)
    if keys & _OWN_KEYS or not isinstance(root, yaml.MappingNode):
        return OWN
    if keys & _ACCELERATE_KEYS:
        return "accelerate"
    groups = [value for _, value in root.value if isinstance(value, yaml.MappingNode)]
    return "ansible" if "all" in keys or any(_keys(each) & _GROUP_KEYS for each in groups) else OWN


def _keys(node: Any) -> set[str]:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return {key.value for key, _ in pairs if isinstance(key, yaml.ScalarNode)}


def _of_lines(gathering: Gathering, text: str) -> str:
    """Return the format of a text with hosts in its lines; record a mistake if it is none, or unclear which."""
    counts: list[tuple[int, str, int]] = []
    significant = 0
    for number, line in enumerate(text.splitlines(), 1):
        found = words(without_comment(line))
        significant += bool(found)
        counts += [(number, word, int(m.group(1)[:9])) for word in found if (m := _COUNTED.match(word))]
        if significant == 1 and found and not _may_be_hosts(line, found):
            gathering.mistake(
                number, line.strip(), f"a list of hosts, or its format: {_spelled(gathering.source)}"
            )
            return OWN
    processes = [each for each in counts if each[2] < _PORTS_FROM and each[2] != _SSH_PORT]
    if processes and _MPI_NAME.search(gathering.source) and len(processes) == len(counts):
        return "mpi"
    if processes:
        number, word, count = processes[0]
        shown = "LIST" if gathering.source == WITHOUT_FILE else gathering.source
        expected = f"--hosts plain:{shown} if {count} is a port, --hosts mpi:{shown} if it counts processes"
        gathering.mistake(number, word, expected)
    if _MPI_NAME.search(gathering.source):
        return "mpi"
    ranged = "," in text and "[" in text
    return "slurm" if significant == 1 and ranged and "@" not in text and ":" not in text else "plain"


def _may_be_hosts(line: str, found: list[str]) -> bool:
    """Return whether a line looks like hosts, rather than like prose or a program."""
    return (len(found) == 1 or "," in line or _numeric(found[0])) and _may_be_host(found[0])


def _may_be_host(word: str) -> bool:
    return re.match(r"[\w.@:%\[\]+-]", word) is not None and not re.search(r"[(){}=\"'`;<>!?/\\]", word)


def _spelled(source: str) -> str:
    return f"--hosts FORMAT:{source} with {', '.join(PARSERS)}"
