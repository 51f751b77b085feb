"""Hostfiles of DeepSpeed and of MPI: Open MPI's ``slots=``, and ``host:processes`` of MPICH and Intel MPI."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from orchestrator.core.inventory.foreign.gathering import Gathering, whole_number, without_comment
from orchestrator.core.inventory.foreign.imported import Imported
from orchestrator.core.inventory.hostrange import RangeError, expand

_COUNTED = re.compile(r"(.+?):(\d+)\Z", re.ASCII)
_SLOTS = ("slots", "count", "cpu", "cpus")
_MOST_SLOTS = ("max_slots", "max-slots", "maxslots", "slots_max", "slots-max")


def parse_hostfile(texts: Mapping[str, str]) -> Imported:
    """Return the hosts, with their processes as ``nproc``; the processes of repeated hosts add up.

    Raises InventoryError.
    """
    ((source, text),) = texts.items()
    gathering = Gathering("DeepSpeed or MPI hostfile", source)
    hosts: dict[str, tuple[int, dict[str, Any]]] = {}
    for line, whole in enumerate(text.splitlines(), 1):
        first, *settings = without_comment(whole).split() or [""]
        if not first:
            continue
        if first.startswith("+"):
            gathering.mistake(line, first, "a host name; relative nodes such as +n1 are only known to mpirun")
            continue
        counted = _COUNTED.match(first)
        keys = _settings(gathering, line, settings)
        if counted:
            first, keys["nproc"] = counted.group(1), _processes(gathering, line, counted.group(2))
        for host in _expanded(gathering, line, first):
            before = hosts.get(host)
            if before is not None:
                # A line without a number stands for one process, as in $PBS_NODEFILE.
                keys = {**before[1], **keys, "nproc": before[1].get("nproc", 1) + keys.get("nproc", 1)}
            hosts[host] = (before[0] if before else line, keys)
            gathering.check_size(line, len(hosts))
    for host, (line, keys) in hosts.items():
        gathering.add_destination(line, host, **keys)
    return gathering.imported(places=gathering.places)


def _processes(gathering: Gathering, line: int, value: str) -> int:
    number = whole_number(value)
    if number is None or not 1 <= number <= 1024:
        gathering.mistake(line, value, "a number of processes from 1 to 1024")
        return 1
    return number


def _expanded(gathering: Gathering, line: int, host: str) -> list[str]:
    try:
        return expand(host) if "[" in host and ":" not in host else [host]
    except RangeError as error:
        gathering.mistake(line, host, f"a range such as node[01-04]; {error}")
        return []


def _settings(gathering: Gathering, line: int, settings: list[str]) -> dict[str, Any]:
    """Return the keys that ``slots=4`` and the like stand for."""
    keys: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            gathering.mistake(line, setting, "NAME=VALUE, such as slots=4")
        elif name in _SLOTS:
            keys["nproc"] = _processes(gathering, line, value)
        elif name in _MOST_SLOTS:
            gathering.note(line, f"{name} is not carried over: orch starts no more processes than slots")
        elif name in ("user", "username"):
            keys["user"] = value
        elif name == "ifname":
            keys["interface"] = value
        else:
            gathering.note(line, f"{name} is not carried over")
    return keys
