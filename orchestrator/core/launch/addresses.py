"""Find the master's address and the interface through which each node reaches it.

``getfqdn()`` and ``hostname -I`` may give addresses that no other node can reach, so address and interfaces are
derived from the interfaces and routes of all nodes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.core.checks.facts import Address, Facts
from orchestrator.core.inventory.hosts import Host
from orchestrator.errors import PreflightError

# A network is preferred to the one that SSH uses only if it is faster than this, in Mbit/s.
FAST = 1000
# Bridges of containers and virtual machines: many hosts have them, with the same address on each.
VIRTUAL = ("docker", "br-", "virbr", "veth", "cni", "flannel", "tailscale", "lxc", "podman")


def master_address(master: Host, hosts: Sequence[Host], facts: Mapping[str, Facts], interface: str | None) -> str:
    """Return the numeric address at which every node can reach the master.

    In order of preference: ``fabric_address``; the address on the interface that the inventory names; one on a
    network of all nodes that is faster than SSH's; the address that SSH came in on; any other that all nodes have
    a route to; SSH's address even if no interface of the master has it (NAT). Raises PreflightError if none fits.
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
                remedy=f"set interface: for this host to one of its interfaces: {have}",
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
        remedy="set fabric_address: for this host to an address that all of them can reach",
        host=master.name,
    )


def on_interface(facts: Facts, interface: str) -> str | None:
    """Return the first address of an interface, IPv4 before IPv6; None if it has none."""
    mine = [entry.address for entry in facts.addresses if entry.interface == interface]
    return min(mine, key=lambda address: ":" in address, default=None)


def interface_towards(host: Host, facts: Facts, destination: str, interface: str | None) -> str | None:
    """Return the interface through which a node reaches ``destination``.

    It is the one that the inventory names, the one with ``fabric_address`` or ``destination``, or the one with the
    longest matching prefix. None if the facts show no way there; torch then chooses one itself.
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
    """Return whether a node has an interface or a route towards an address."""
    if ipaddress.ip_address(destination).is_loopback:
        # Only hosts that share a machine, as in the sandbox, can use its loopback addresses.
        return facts.ssh_address is not None and ipaddress.ip_address(facts.ssh_address).is_loopback
    return bool(_matching([*facts.addresses, *facts.routes], destination))


def _candidates(own: Facts) -> Iterable[str]:
    if own.ssh_address:
        # Behind NAT, no interface has SSH's address, so it is left out. A sandbox's 127.0.0.x is kept without one.
        loopback = ipaddress.ip_address(own.ssh_address).is_loopback
        if loopback or any(entry.address == own.ssh_address for entry in own.addresses):
            yield own.ssh_address
    for entry in own.addresses:
        virtual = entry.interface.startswith(VIRTUAL)
        if not virtual and not ipaddress.ip_address(entry.address).is_loopback:
            yield entry.address


def _fastest_first(own: Facts, others: Sequence[Facts]) -> list[str]:
    """Return the candidates; those on a network of all nodes that is faster than SSH's come first."""
    usual = list(dict.fromkeys(_candidates(own)))
    speeds = {address: _speed(own, address) for address in usual}
    least = max([FAST, *(speeds[address] for address in usual if address == own.ssh_address)])

    def shared(address: str) -> bool:
        beside = [_matching(other.addresses, address) for other in others]
        return all(beside) and not any(entry.address == address for other in others for entry in other.addresses)

    faster = [address for address in usual if ":" not in address and speeds[address] > least and shared(address)]
    return [*sorted(faster, key=lambda address: -speeds[address]), *usual]


def _speed(facts: Facts, address: str) -> int:
    """Return the speed of the interface with an address, in Mbit/s as the kernel reports it; 0 if unknown."""
    name = next((entry.interface for entry in facts.addresses if entry.address == address), "")
    interface = (facts.parts.interfaces or {}).get(name)
    return interface.speed or 0 if interface is not None else 0


def candidates(host: Host, facts: Mapping[str, Facts], hosts: Sequence[Host]) -> list[str]:
    """Return IPv4 addresses at which others may reach a node, likeliest first, without those of other nodes."""
    own = facts[host.name]
    others = {entry.address for other in hosts if other.name != host.name for entry in facts[other.name].addresses}
    named = [host.fabric_address] if host.fabric_address else []
    found = [*named, *_candidates(own)]
    return [address for address in dict.fromkeys(found) if address not in others and ":" not in address]


def _matching(entries: Iterable[Address], destination: str) -> list[Address]:
    """Return the entries whose network holds an address, without virtual bridges, which lead to no other node."""
    found = []
    for entry in entries:
        target = ipaddress.ip_address(destination)
        network = ipaddress.ip_network(f"{entry.address}/{entry.prefix}", strict=False)
        if target in network and not entry.interface.startswith(VIRTUAL):
            found.append(entry)
    return found
