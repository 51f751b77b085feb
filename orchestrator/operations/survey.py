"""Looking at a cluster: the facts of every node, and what the nodes find out about each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from orchestrator.core.checks.facts import Facts
from orchestrator.core.checks.findings import Examined
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.launch.addresses import candidates, master_address
from orchestrator.core.launch.plan import own_address
from orchestrator.errors import PreflightError
from orchestrator.protocol.facts import AskFacts
from orchestrator.remote.probing import Answer, hang_up, probe

# What run looks at before each start, and what only doctor takes the time for.
QUICK_PARTS = (
    "system",
    "own_name",
    "limits",
    "memory",
    "disks",
    "shm",
    "variables",
    "interfaces",
    "listeners",
    "logout",
)
OF_GPUS = ("gpus", "gpu_users", "gpu_peers", "gpu_errors", "rdma")
OF_THE_PAST = ("torchruns", "locks", "kept")
ALL_PARTS = (*QUICK_PARTS, *OF_GPUS, *OF_THE_PAST, "home", "names", "timekeeping", "torch")


def facts_request(host: Host, parts: Sequence[str]) -> AskFacts:
    """What is asked of a host, but for the master's port and the trees."""
    return AskFacts(python=host.python, workdir=host.workdir, parts=tuple(parts), probe=True)


def dialled(
    examined: Examined,
    answers: Mapping[str, Answer],
    interface: str | None,
    *,
    thorough: bool,
    seconds: float | None = None,
    mesh: bool = False,
) -> Examined:
    """With what the nodes found out about each other; nobody listens any more afterwards.

    ``interface`` is the rendezvous' of the inventory: what is dialled is what a run would use. With ``mesh`` they
    log in to each other by SSH, too.
    """
    hosts, facts = examined.hosts, examined.facts
    planned = planned_addresses(hosts, facts, interface)
    offered = {
        host.name: [
            *([planned[host.name]] if host.name in planned else []),
            *(each for each in candidates(host, facts, hosts) if each != planned.get(host.name)),
        ]
        for host in hosts
    }
    if not thorough:
        offered = {name: each[:1] for name, each in offered.items()}
    port = facts[hosts[0].name].free_port if hosts else None
    ports = {host.name: host.port or 22 for host in hosts} if mesh else {}
    try:
        probes, logins = probe(answers, offered, port, seconds=seconds, thorough=thorough, ssh_ports=ports)
    finally:
        hang_up(answers)
    first = {name: each[0] for name, each in offered.items() if each}
    return replace(examined, probes=probes, logins=logins, addresses=first)


def planned_addresses(hosts: Sequence[Host], facts: Mapping[str, Facts], interface: str | None) -> dict[str, str]:
    """The address of each node that a run would use, where one can be worked out."""
    if not hosts:
        return {}
    try:
        master = master_address(hosts[0], hosts, facts, interface)
    except PreflightError:
        return {}
    found = {hosts[0].name: master}
    for host in hosts[1:]:
        address = own_address(host, facts[host.name], master, interface)
        if address is not None:
            found[host.name] = address
    return found
