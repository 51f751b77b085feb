"""Addresses: the master's, the interface towards it, and each node's own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.checks.facts import Facts
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.launch.addresses import candidates, interface_towards, master_address, on_interface
from orchestrator.core.launch.plan import (
    own_address,
)
from orchestrator.errors import PreflightError
from tests.unit.launch.plans import facts

# The master's keys, the inventory's interface, the facts about master and other node, the master's address.
MASTERS: dict[str, tuple[dict[str, Any], str | None, Facts, Facts, str]] = {
    "fabric_address comes first": (
        {"fabric_address": "10.5.0.1", "interface": "eth0"},
        None,
        facts("eth0=10.0.0.1/24", "10.0.0.1"),
        facts("eth0=10.0.0.2/24"),
        "10.5.0.1",
    ),
    "the host's interface comes before the inventory's": (
        {"interface": "ib0"},
        "eth0",
        facts("eth0=10.0.0.1/24 ib0=10.9.0.1/24", "10.0.0.1"),
        facts("eth0=10.0.0.2/24"),
        "10.9.0.1",
    ),
    "the inventory's interface": (
        {},
        "ib0",
        facts("eth0=10.0.0.1/24 ib0=10.9.0.1/24", "10.0.0.1"),
        facts("eth0=10.0.0.2/24"),
        "10.9.0.1",
    ),
    "SSH's address comes before others": (
        {},
        None,
        facts("eth1=10.1.0.1/24 eth0=10.0.0.1/24", "10.0.0.1"),
        facts("eth1=10.1.0.2/24 eth0=10.0.0.2/24"),
        "10.0.0.1",
    ),
    "an address that the other node cannot reach is passed over": (
        {},
        None,
        facts("eth0=10.0.0.1/24 eth1=10.1.0.1/24", "10.0.0.1"),
        facts("eth0=10.1.0.2/24"),
        "10.1.0.1",
    ),
    "a route is enough": (
        {},
        None,
        facts("eth0=10.0.0.1/24", "10.0.0.1"),
        facts("eth0=10.7.0.2/24", routes="eth0=10.0.0.0/16"),
        "10.0.0.1",
    ),
    "behind NAT, SSH's address is the last resort": (
        {},
        None,
        facts("eth0=192.168.0.1/24", "203.0.113.9"),
        facts("eth0=10.0.0.2/24"),
        "203.0.113.9",
    ),
    "hosts on one machine meet at its loopback addresses": (
        {},
        None,
        facts("eth0=10.0.0.1/24", "127.0.0.2"),
        facts("eth0=10.0.0.1/24", "127.0.0.3"),
        "127.0.0.2",
    ),
    "a loopback address is of no use to a node that SSH reaches elsewhere": (
        {},
        None,
        facts("eth0=10.0.0.1/24", "127.0.0.2"),
        facts("eth0=10.0.0.2/24", "10.0.0.2"),
        "10.0.0.1",
    ),
    "or whose address in SSH is unknown": (
        {},
        None,
        facts("eth0=10.0.0.1/24", "127.0.0.2"),
        facts("eth0=10.0.0.2/24"),
        "10.0.0.1",
    ),
    "a bridge of containers leads to no other node": (
        {},
        None,
        facts("docker0=172.17.0.1/16 eth0=10.0.0.1/24"),
        facts("docker0=172.17.0.1/16 eth0=10.0.0.2/24"),
        "10.0.0.1",
    ),
    "the fastest of the faster networks": (
        {},
        None,
        facts(
            "eth0=10.0.0.1/24 ib0=10.8.0.1/24 ib1=10.9.0.1/24",
            "10.0.0.1",
            speeds={"eth0": 1000, "ib0": 40_000, "ib1": 100_000},
        ),
        facts("eth0=10.0.0.2/24 ib0=10.8.0.2/24 ib1=10.9.0.2/24"),
        "10.9.0.1",
    ),
    "1 Gbit/s is not fast, even if SSH's network is slower": (
        {},
        None,
        facts("eth0=10.0.0.1/24 eth1=10.9.0.1/24", "10.0.0.1", speeds={"eth0": 100, "eth1": 1000}),
        facts("eth0=10.0.0.2/24 eth1=10.9.0.2/24"),
        "10.0.0.1",
    ),
    "1001 Mbit/s is": (
        {},
        None,
        facts("eth0=10.0.0.1/24 eth1=10.9.0.1/24", "10.0.0.1", speeds={"eth0": 100, "eth1": 1001}),
        facts("eth0=10.0.0.2/24 eth1=10.9.0.2/24"),
        "10.9.0.1",
    ),
    "IPv6 is not preferred for its speed": (
        {},
        None,
        facts("eth0=10.0.0.1/24 ib0=fd00::1/64", "10.0.0.1", speeds={"eth0": 1000, "ib0": 100_000}),
        facts("eth0=10.0.0.2/24 ib0=fd00::2/64"),
        "10.0.0.1",
    ),
    "nor is a network where the other node has the same address": (
        {},
        None,
        facts("eth0=10.0.0.1/24 usb0=10.9.0.1/24", "10.0.0.1", speeds={"eth0": 1000, "usb0": 5000}),
        facts("eth0=10.0.0.2/24 usb0=10.9.0.1/24"),
        "10.0.0.1",
    ),
}


@pytest.mark.parametrize(("keys", "interface", "own", "other", "address"), MASTERS.values(), ids=MASTERS.keys())
def test_the_address_of_the_master(
    keys: dict[str, Any], interface: str | None, own: Facts, other: Facts, address: str
) -> None:
    hosts = [Host("a", "a", **keys), Host("b", "b")]
    assert master_address(hosts[0], hosts, {"a": own, "b": other}, interface) == address


def test_no_address_of_the_master_is_an_error_with_a_remedy() -> None:
    hosts = [Host("a", "a"), Host("b", "b")]
    for ssh in (None, "127.0.0.2"):
        known = {"a": facts("eth0=192.168.0.1/24", ssh), "b": facts("eth0=10.0.0.2/24", "10.0.0.2")}
        with pytest.raises(PreflightError) as refused:
            master_address(hosts[0], hosts, known, None)
        assert str(refused.value) == (
            "a: no address of this master can be reached from every other node → "
            "set fabric_address: for this host to an address that all of them can reach"
        )
    own = facts("lo=127.0.0.1/8 eth0=10.0.0.1/24 eth0=fe80::1/64", "10.0.0.1")
    with pytest.raises(PreflightError) as refused:
        master_address(hosts[0], hosts, {"a": own, "b": own}, "ib7")
    assert str(refused.value) == (
        "a: has no address on interface 'ib7' → set interface: for this host to one of its interfaces: eth0, lo"
    )


@pytest.mark.parametrize(
    ("addresses", "found"),
    [
        ("ib0=1fd0::1/64 ib0=10.9.0.7/24 ib0=10.9.0.1/24", "10.9.0.7"),
        ("ib0=fd00::1/64 eth0=10.0.0.1/24", "fd00::1"),
        ("eth0=10.0.0.1/24", None),
    ],
)
def test_an_interface_stands_for_its_first_address_and_ipv4_comes_before_ipv6(
    addresses: str, found: str | None
) -> None:
    assert on_interface(facts(addresses), "ib0") == found


NETWORKS = facts(
    "lo=127.0.0.1/8 docker0=172.17.0.1/16 eth0=10.0.0.2/24 ib0=10.9.0.2/24", "10.0.0.2", "eth0=10.0.0.0/8"
)


# The host's keys, the inventory's interface, the facts, the destination, the interface, the node's own address.
@pytest.mark.parametrize(
    ("keys", "named", "known", "towards", "interface", "address"),
    [
        ({"interface": "ib0"}, "eth0", NETWORKS, "10.0.0.1", "ib0", "10.9.0.2"),
        ({}, "ib0", NETWORKS, "10.0.0.1", "ib0", "10.9.0.2"),
        ({}, "ib7", NETWORKS, "10.0.0.1", "ib7", None),
        ({"fabric_address": "10.9.0.2"}, None, NETWORKS, "10.0.0.1", "ib0", "10.9.0.2"),
        ({"fabric_address": "198.51.100.2"}, None, NETWORKS, "10.9.0.1", "ib0", "198.51.100.2"),
        # The address of another interface in the same network is on that interface.
        ({}, None, facts("eth0=10.0.0.2/24 eth1=10.0.0.3/24"), "10.0.0.3", "eth1", "10.0.0.3"),
        ({}, None, NETWORKS, "10.0.0.1", "eth0", "10.0.0.2"),
        ({}, None, NETWORKS, "10.9.0.1", "ib0", "10.9.0.2"),
        ({}, None, NETWORKS, "10.3.0.1", "eth0", "10.0.0.2"),
        ({}, None, NETWORKS, "172.17.0.9", None, None),
        # Of several addresses on the interface, the node gives the one that SSH came in on.
        ({}, None, facts("eth0=10.0.0.2/24 eth0=10.0.0.9/24", "10.0.0.9"), "10.0.0.1", "eth0", "10.0.0.9"),
        # One that SSH uses on another interface does not count, except on a shared machine.
        ({}, None, facts("eth0=10.0.0.2/24 eth1=10.1.0.2/24", "10.1.0.2"), "10.0.0.1", "eth0", "10.0.0.2"),
        ({}, None, facts("lo=127.0.0.1/8 eth0=10.0.0.2/24", "127.0.0.3"), "127.0.0.2", "lo", "127.0.0.3"),
        ({}, None, facts(ssh="10.0.0.2"), "10.0.0.1", None, None),
    ],
)
def test_the_interface_towards_the_master_and_the_address_there(
    keys: dict[str, Any], named: str | None, known: Facts, towards: str, interface: str | None, address: str | None
) -> None:
    host = Host("b", "b", **keys)
    assert interface_towards(host, known, towards, named) == interface
    assert own_address(host, known, towards, named) == address


def test_candidates_are_ipv4_addresses_that_no_other_node_has() -> None:
    own = facts("lo=127.0.0.1/8 br-1=172.18.0.1/16 eth1=10.1.0.1/24 eth0=10.0.0.1/24 eth0=fd00::1/64", "10.0.0.1")
    other = facts("eth0=10.0.0.2/24 usb0=10.1.0.1/24 eth0=fd00::1/64")
    hosts = [Host("a", "a", fabric_address="10.5.0.1"), Host("b", "b")]
    assert candidates(hosts[0], {"a": own, "b": other}, hosts) == ["10.5.0.1", "10.0.0.1"]
    alone = replace(hosts[0], fabric_address=None)
    assert candidates(alone, {"a": own}, [alone]) == ["10.0.0.1", "10.1.0.1"]
