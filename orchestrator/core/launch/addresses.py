"""Which address the master is reached at, and which interface each node reaches it through.

``getfqdn()`` and ``hostname -I`` pick addresses that nobody can reach, so both are worked out from every
node's interfaces and routes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.core.checks.facts import Address, Facts
from orchestrator.core.inventory.hosts import Host
from orchestrator.errors import PreflightError

# In Mbit/s: no network is preferred to the one that SSH uses unless it is faster than this.
FAST = 1000
# Bridges of containers and virtual machines: up on many hosts, with the same address on each.
VIRTUAL = ("docker", "br-", "virbr", "veth", "cni", "flannel", "tailscale", "lxc", "podman")


def master_address(master: Host, hosts: Sequence[Host], facts: Mapping[str, Facts], interface: str | None) -> str:
    """The numeric address of the master that every node can reach.

    In this order: ``fabric_address``, the address on the interface that the inventory names, one on a network
    that all nodes are on and that is faster than SSH's, the address that SSH came in on, any other. Raises
    PreflightError if none will do.
    """
    own = facts[master.name]
    if master.fabric_address:
        return master.fabric_address
    wanted = master.interface or interface
    if wanted:
        found = on_interface(own, wanted)
        if found is None:
            have = ", ".join(sorted({address.interface for address in own.addresses}))
            raise PreflightError(
                f"has no address on interface {wanted!r}",
                remedy=f"its interfaces are {have}: set interface: for this host",
                host=master.name,
            )
        return found
    others = [facts[host.name] for host in hosts if host.name != master.name]
    for candidate in _fastest_first(own, others):
        if all(reaches(other, candidate) for other in others):
            return candidate
    if own.ssh_address and not ipaddress.ip_address(own.ssh_address).is_loopback:
        return own.ssh_address
    raise PreflightError(
        "no address of this master can be reached from every other node",
        remedy="set fabric_address: for this host to one that they can reach",
        host=master.name,
    )


def on_interface(facts: Facts, interface: str) -> str | None:
    """The first address of an interface, IPv4 before IPv6."""
    mine = [entry.address for entry in facts.addresses if entry.interface == interface]
    return min(mine, key=lambda address: ":" in address, default=None)


def interface_towards(host: Host, facts: Facts, destination: str, interface: str | None) -> str | None:
    """The interface through which a node reaches ``destination``, by the longest matching prefix.

    None if nothing leads there that the facts know of; torch then chooses by itself.
    """
    wanted = host.interface or interface
    if wanted:
        return wanted
    if host.fabric_address:
        for entry in facts.addresses:
            if entry.address == host.fabric_address:
                return entry.interface
    for entry in facts.addresses:
        if entry.address == destination:
            return entry.interface
    matching = _matching([*facts.addresses, *facts.routes], destination)
    best = max(matching, key=lambda entry: entry.prefix, default=None)
    return best.interface if best else None


def reaches(facts: Facts, destination: str) -> bool:
    """Whether a node has an interface or a route towards an address."""
    if ipaddress.ip_address(destination).is_loopback:
        # Only hosts that share a machine, as a sandbox's do, can use its loopback addresses.
        return facts.ssh_address is not None and ipaddress.ip_address(facts.ssh_address).is_loopback
    return bool(_matching([*facts.addresses, *facts.routes], destination))


def _candidates(own: Facts) -> Iterable[str]:
    if own.ssh_address:
        # Behind NAT the node does not have the address; a sandbox's 127.0.0.x is on no interface either.
        loopback = ipaddress.ip_address(own.ssh_address).is_loopback
        if loopback or any(entry.address == own.ssh_address for entry in own.addresses):
            yield own.ssh_address
    for entry in own.addresses:
        virtual = entry.interface.startswith(VIRTUAL)
        if not virtual and not ipaddress.ip_address(entry.address).is_loopback:
            yield entry.address


def _fastest_first(own: Facts, others: Sequence[Facts]) -> list[str]:
    """The candidates, first those on a network of all nodes that is faster than the one that SSH came in on."""
    usual = list(dict.fromkeys(_candidates(own)))
    speeds = {address: _speed(own, address) for address in usual}
    least = max([FAST, *(speeds[address] for address in usual if address == own.ssh_address)])

    def shared(address: str) -> bool:
        beside = [_matching(other.addresses, address) for other in others]
        return all(beside) and not any(entry.address == address for other in others for entry in other.addresses)

    faster = [address for address in usual if ":" not in address and speeds[address] > least and shared(address)]
    return [*sorted(faster, key=lambda address: -speeds[address]), *usual]


def _speed(facts: Facts, address: str) -> int:
    """Of the interface that has an address, in Mbit/s as the kernel says; 0 where it does not."""
    name = next((entry.interface for entry in facts.addresses if entry.address == address), "")
    interface = (facts.parts.interfaces or {}).get(name)
    return interface.speed or 0 if interface is not None else 0


def candidates(host: Host, facts: Mapping[str, Facts], hosts: Sequence[Host]) -> list[str]:
    """A node's IPv4 addresses that others might reach, the likeliest first; none that stands on several nodes."""
    own = facts[host.name]
    others = {entry.address for other in hosts if other.name != host.name for entry in facts[other.name].addresses}
    named = [host.fabric_address] if host.fabric_address else []
    found = [*named, *_candidates(own)]
    return [address for address in dict.fromkeys(found) if address not in others and ":" not in address]


def _matching(entries: Iterable[Address], destination: str) -> list[Address]:
    """The interfaces and routes whose network holds an address; a virtual bridge leads nowhere else."""
    found = []
    for entry in entries:
        target = ipaddress.ip_address(destination)
        network = ipaddress.ip_network(f"{entry.address}/{entry.prefix}", strict=False)
        if target in network and not entry.interface.startswith(VIRTUAL):
            found.append(entry)
    return found
