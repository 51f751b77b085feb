"""Propose interpreters, interfaces and names for a hosts file from the facts of its hosts."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence

from orchestrator.core.checks.facts import Facts
from orchestrator.core.inventory.draft.typed import free_name, is_numeric
from orchestrator.core.inventory.edit import is_interface
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.launch.addresses import interface_towards, master_address
from orchestrator.core.text.counted import counted
from orchestrator.errors import PreflightError

# Names that say nothing about a machine.
_COMMON = re.compile(r"localhost(\..*)?\Z|localhost\d\Z", re.IGNORECASE)


def interpreters(facts: Mapping[str, Facts]) -> list[str]:
    """Return the interpreters that have torch on every host, likeliest first, spelled as a hosts file spells them.

    Those with the same torch on all hosts come first, then those with the newest.
    """
    found = [_with_torch(each) for each in facts.values()]
    common = [path for path in found[0] if all(path in each for each in found)] if found else []
    versions = {path: {each[path] for each in found} for path in common}
    return sorted(common, key=lambda path: (len(versions[path]) > 1, [-n for n in _oldest(versions[path])]))


def own_interpreters(facts: Mapping[str, Facts]) -> dict[str, str]:
    """Return each host's likeliest interpreter with torch, for hosts that have none in common."""
    found = {name: interpreters({name: each}) for name, each in facts.items()}
    return {name: paths[0] for name, paths in found.items() if paths}


def _with_torch(facts: Facts) -> dict[str, str]:
    """Return the versions of torch by interpreter, including the one that was asked for."""
    asked = [facts.python] if facts.python.torch and facts.python.path.startswith("/") else []
    return {
        _spelled(facts, each.path): each.torch
        for each in [*(facts.parts.interpreters or ()), *asked]
        if each.torch
    }


def _spelled(facts: Facts, path: str) -> str:
    """Return a path of a node as a hosts file spells it: ``~`` for the home folder, and dollar signs doubled."""
    home = facts.home.rstrip("/")
    short = f"~{path[len(home) :]}" if home and path.startswith(f"{home}/") else path
    return short.replace("$", "$$")


def _oldest(versions: set[str]) -> list[int]:
    """Return the numbers of the oldest of some versions."""
    return min([int(number[:9]) for number in re.findall(r"\d+", each.partition("+")[0])] for each in versions)


def interfaces(hosts: Sequence[Host], facts: Mapping[str, Facts]) -> dict[str, str]:
    """Return each host's interface on the network that a run would use; none unless all hosts are on it.

    Interfaces with names that a hosts file cannot hold count as absent: they come from the hosts.
    """
    known = [host for host in hosts if host.name in facts]
    if len(known) < 2:
        return {}
    try:
        master = master_address(known[0], known, facts, None)
    except PreflightError:
        return {}
    found = {}
    for host in known:
        name = interface_towards(host, facts[host.name], master, None)
        if name is None or not is_interface(name) or not _shares(facts[host.name], name, master):
            return {}
        found[host.name] = name
    return found


def _shares(facts: Facts, interface: str, address: str) -> bool:
    """Return whether an interface of a node is on the network of ``address``."""
    return any(
        ipaddress.ip_address(address) in ipaddress.ip_network(f"{each.address}/{each.prefix}", strict=False)
        for each in facts.addresses
        if each.interface == interface and (":" in each.address) == (":" in address)
    )


def better_name(name: str, address: str, facts: Facts, taken: Sequence[str]) -> str:
    """Return a host's own name where the user typed a numeric address; ``name`` where that says nothing."""
    own = facts.hostname.partition(".")[0]
    if not is_numeric(address) or not own or _COMMON.match(own) or is_numeric(facts.hostname):
        return name
    return free_name(own, [each for each in taken if each != name])


def machine(facts: Facts) -> str:
    """Describe a host's hardware and system in a few words, which do not change from day to day."""
    parts = facts.parts
    names = sorted({each.get("name", "?") for each in parts.gpus or ()})
    gpus = counted(facts.gpus, "GPU") if facts.gpus else "no GPU"
    words = [
        parts.system.os if parts.system is not None and parts.system.os else facts.system,
        *(
            [f"{counted(parts.memory.cores, 'core')}, {parts.memory.total / 1e9:.0f} GB"]
            if parts.memory is not None
            else []
        ),
        gpus + (f" ({', '.join(names)})" if names else ""),
    ]
    return ", ".join(words)


def summary(facts: Facts) -> str:
    """Describe a host in a few words: machine, Python, torch and free disk."""
    python = facts.python
    disk = (facts.parts.disks or {}).get("workdir")
    torch = max(_with_torch(facts).items(), key=lambda item: _oldest({item[1]}), default=None)
    words = [
        machine(facts),
        f"Python {python.version}" if python.version else "no Python",
        f"torch {torch[1]} ({torch[0]})" if torch else "no torch",
        *([f"{disk.free / 1e9:.0f} GB free"] if disk is not None else []),
    ]
    return ", ".join(words)
