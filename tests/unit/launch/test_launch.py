"""Launching: the master's address, ports, ranks and rendezvous; exact commands, variables and texts; packages."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.checks.facts import Address, Facts
from orchestrator.core.inventory.hosts import Host, Rendezvous
from orchestrator.core.launch.addresses import candidates, interface_towards, master_address, on_interface
from orchestrator.core.launch.environment import Environment, flattened, of_pyproject, wheel_platforms
from orchestrator.core.launch.plan import (
    LaunchPlan,
    NodePlan,
    RunSpec,
    Workload,
    assumed_facts,
    nproc_per_node,
    own_address,
    plan,
    ranks_of,
)
from orchestrator.core.launch.torchrun import NodeCommand, as_dict, as_json, as_ps1, as_sh, command, commands
from orchestrator.errors import PreflightError, UsageError
from orchestrator.protocol.facts import Interface, Interpreter, Parts

SCRIPT = Workload("t.py", "script", "t.py")


def entries(text: str) -> tuple[Address, ...]:
    """Return the addresses or routes in a text such as ``eth0=10.0.0.1/24 ib0=fd00::1/64``."""
    split = [re.split("[=/]", word) for word in text.split()]
    return tuple(Address(interface, address, int(prefix)) for interface, address, prefix in split)


def facts(addresses: str = "", ssh: str | None = None, routes: str = "", **changes: Any) -> Facts:
    """Return facts about a node without GPUs; ``speeds`` maps interfaces to Mbit/s."""
    speeds = changes.pop("speeds", {})
    cards = {name: Interface(up=True, speed=speed, mtu=1500, kind="ethernet") for name, speed in speeds.items()}
    known = Facts(
        node="a",
        hostname="a",
        home="/home/u",
        user="u",
        system="Linux",
        path="/usr/bin",
        python=Interpreter(path="/usr/bin/python3"),
        gpus=0,
        addresses=entries(addresses),
        routes=entries(routes),
        ssh_address=ssh,
        free_port=29500,
        trees=(),
        running=None,
        parts=Parts(interfaces=cards) if cards else Parts(),
    )
    return replace(known, **changes)


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


def planned(
    *hosts: Host, known: dict[str, Facts] | None = None, meet: Rendezvous | None = None, **spec: Any
) -> LaunchPlan:
    """Return attempt 1, or ``attempt``, of ``run1`` on hosts in one network, by default one host ``a``."""
    attempt = spec.pop("attempt", 1)
    hosts = hosts or (Host("a", "a"),)
    found = known or {
        host.name: facts(f"eth0=10.0.0.{last}/24", f"10.0.0.{last}", hostname=host.name)
        for last, host in enumerate(hosts, 1)
    }
    asked = RunSpec(**{"workload": SCRIPT, **spec})
    return plan(hosts, meet or Rendezvous(), asked, found, "run1", attempt)


def refusal(*hosts: Host, **spec: Any) -> str:
    """Return the error that ``planned`` ends with."""
    with pytest.raises((UsageError, PreflightError)) as refused:
        planned(*hosts, **spec)
    return str(refused.value)


A, B, C = Host("a", "a"), Host("b", "b"), Host("c", "c")


def test_a_node_plan_says_where_and_how_a_node_runs() -> None:
    host = Host("b", "b", workdir="~/w", python="/opt/env/bin/python", gpus=2, env={"X": "host", "Y": "host"})
    known = {
        "a": facts("eth0=10.0.0.1/24", "10.0.0.1", hostname="m1"),
        "b": facts("eth0=10.0.0.2/24", "10.0.0.2", hostname="m2", python=Interpreter(path="/opt/env/bin/python")),
    }
    assert planned(A, host, known=known, env={"X": "run"}, attempt=2).nodes[1] == NodePlan(
        node="b",
        node_rank=1,
        first_rank=1,
        nproc_per_node=2,
        address="10.0.0.2",
        interface="eth0",
        python="/opt/env/bin/python",
        path="/opt/env/bin:/usr/bin",
        workdir="/home/u/w",
        work="/home/u/w/runs/m2/run1",
        attempt_dir="/home/u/.orch/m2/runs/run1/attempt2",
        env={"X": "run", "Y": "host"},
    )


def test_the_inventorys_interface_counts_for_all_nodes() -> None:
    known = {
        name: facts(f"eth0=10.0.0.{last}/24 ib0=10.9.0.{last}/24", f"10.0.0.{last}")
        for last, name in enumerate("abc", 1)
    }
    made = planned(A, B, C, known=known, meet=Rendezvous(interface="ib0"))
    assert made.master_addr == "10.9.0.1"
    assert [(node.interface, node.address) for node in made.nodes] == [
        ("ib0", "10.9.0.1"),
        ("ib0", "10.9.0.2"),
        ("ib0", "10.9.0.3"),
    ]


def test_ranks_follow_the_order_of_the_nodes() -> None:
    made = planned(replace(A, nproc=2), replace(B, nproc=3), replace(C, nproc=4))
    assert [node.first_rank for node in made.nodes] == [0, 2, 5] and made.world_size == 9
    assert [ranks_of(node.first_rank, node.nproc_per_node) for node in made.nodes] == [
        range(2),
        range(2, 5),
        range(5, 9),
    ]
    elastic = planned(A, B, nnodes=(1, 2))
    assert [node.first_rank for node in elastic.nodes] == [None, None] and list(ranks_of(None, 4)) == []
    assert (made.nnodes, made.min_nodes) == ("3", None) and (elastic.nnodes, elastic.min_nodes) == ("1:2", 1)


# What the run asks for, the host's keys, the GPUs that the node has, the number of processes.
@pytest.mark.parametrize(
    ("asked", "keys", "gpus", "nproc"),
    [
        ({"nproc": 3}, {"nproc": 2, "gpus": 4}, 8, 3),
        ({}, {"nproc": 2, "gpus": 4}, 8, 2),
        ({}, {"gpus": 4}, 8, 4),
        ({}, {}, 8, 8),
        ({}, {}, 0, 1),
        ({}, {"gpus": 0}, 8, 1),
        ({}, {"gpus": 4, "env": {"CUDA_VISIBLE_DEVICES": "2, 3,"}}, 8, 2),
        ({}, {"env": {"CUDA_VISIBLE_DEVICES": ""}}, 8, 1),
        ({}, {"env": {"CUDA_VISIBLE_DEVICES": "-1"}}, 8, 1),
        ({}, {"nproc": 5, "env": {"CUDA_VISIBLE_DEVICES": "0,1"}}, 8, 5),
        ({"env": {"CUDA_VISIBLE_DEVICES": "0,1,2"}}, {"env": {"CUDA_VISIBLE_DEVICES": "0"}}, 8, 3),
        ({}, {"env": {"HIP_VISIBLE_DEVICES": "0,1"}}, 8, 2),
        ({}, {"env": {"ROCR_VISIBLE_DEVICES": "0,1,2", "HIP_VISIBLE_DEVICES": "0,1"}}, 8, 2),
        ({}, {"env": {"ROCR_VISIBLE_DEVICES": "0,1,2"}}, 8, 3),
    ],
)
def test_the_number_of_processes_on_a_node(
    asked: dict[str, Any], keys: dict[str, Any], gpus: int, nproc: int
) -> None:
    assert nproc_per_node(Host("a", "a", **keys), facts(gpus=gpus), RunSpec(SCRIPT, **asked)) == nproc


# The options, the inventory's rendezvous, the attempt; the port, the rendezvous' backend, its id and its endpoint.
@pytest.mark.parametrize(
    ("asked", "meet", "attempt", "port", "backend", "rdzv_id", "endpoint"),
    [
        ({}, {}, 1, 29500, "static", "run1", "10.0.0.1:29500"),
        ({}, {"port": 4000}, 1, 4000, "static", "run1", "10.0.0.1:4000"),
        ({"port": 5000}, {"port": 4000}, 1, 5000, "static", "run1", "10.0.0.1:5000"),
        ({"port": 5000}, {}, 2, 29500, "static", "run1-2", "10.0.0.1:29500"),
        ({}, {"backend": "c10d", "id": "job"}, 1, 29500, "c10d", "job", "10.0.0.1:29500"),
        ({}, {"id": "job"}, 3, 29500, "static", "job-3", "10.0.0.1:29500"),
        ({}, {"backend": "c10d", "endpoint": "h:1"}, 1, 29500, "c10d", "run1", "h:1"),
        ({"rdzv_backend": "static"}, {"backend": "c10d"}, 1, 29500, "static", "run1", "10.0.0.1:29500"),
        ({"rdzv_id": "mine"}, {"id": "job"}, 1, 29500, "c10d", "mine", "10.0.0.1:29500"),
        ({"rdzv_endpoint": "g:2"}, {"endpoint": "h:1"}, 1, 29500, "c10d", "run1", "g:2"),
        ({"nnodes": (1, 1)}, {}, 1, 29500, "c10d", "run1", "10.0.0.1:29500"),
    ],
)
def test_where_the_nodes_meet(
    asked: dict[str, Any],
    meet: dict[str, Any],
    attempt: int,
    port: int,
    backend: str,
    rdzv_id: str,
    endpoint: str,
) -> None:
    made = planned(meet=Rendezvous(**meet), attempt=attempt, **asked)
    assert (made.master_port, made.rdzv_backend, made.rdzv_id, made.rdzv_endpoint) == (
        port,
        backend,
        rdzv_id,
        endpoint,
    )


def test_an_ipv6_address_is_in_brackets_before_a_port() -> None:
    made = planned(replace(A, fabric_address="fd00::1"))
    assert (made.master_addr, made.rdzv_endpoint) == ("fd00::1", "[fd00::1]:29500")


def test_what_cannot_run_is_refused_with_a_remedy() -> None:
    taken = {"a": facts("eth0=10.0.0.1/24", "10.0.0.1", free_port=None)}
    assert refusal(known=taken) == "a: no TCP port from 29500 on is free → pass --port"
    assert planned(known=taken, port=5000).master_port == 5000
    assert refusal(launcher="accelerate", rdzv_backend="c10d") == (
        "accelerate works with the static rendezvous only, not with c10d → "
        "leave out the rendezvous options or --launcher accelerate"
    )
    assert refusal(A, B, C, nnodes=(1, 2)) == "--nnodes 1:2: there are 3 hosts → choose with --nodes 2"
    assert refusal(A, B, nnodes=(3, 4)) == "--nnodes 3:4: there are 2 hosts → add hosts, or lower MIN"
    for fits in ((2, 4), (1, 2), (2, 2)):
        assert planned(A, B, nnodes=fits).min_nodes == fits[0]


def test_notes_say_what_torch_decides() -> None:
    assert planned(A, B).notes == ()
    c10d = "c10d: torchrun assigns node ranks itself and ignores node_rank, so the order may differ"
    assert planned(A, B, rdzv_backend="c10d").notes == (c10d,)
    lost = {"a": facts("eth0=10.0.0.1/24", "203.0.113.9"), "b": facts("eth0=10.1.0.2/24")}
    assert planned(A, B, known=lost).notes == tuple(
        f"{name}: no interface towards 203.0.113.9 found; torch chooses one by itself" for name in "ab"
    )
    # A node alone needs no interface.
    assert planned(A, known={"a": facts(ssh="203.0.113.9")}).notes == ()


@pytest.mark.parametrize(
    ("asked", "gpus", "backend"),
    [("auto", (1, 8), "nccl"), ("auto", (8, 0), "gloo"), ("auto", (0, 0), "gloo"), ("gloo", (1, 1), "gloo")],
)
def test_nccl_needs_gpus_on_every_node(asked: str, gpus: tuple[int, int], backend: str) -> None:
    known = {
        name: facts(f"eth0=10.0.0.{last}/24", f"10.0.0.{last}", gpus=count)
        for last, (name, count) in enumerate(zip("ab", gpus, strict=True), 1)
    }
    assert planned(A, B, known=known, backend=asked).backend == backend


# The host's python:, the interpreter found, the node's PATH, the ranks' PATH.
@pytest.mark.parametrize(
    ("chosen", "found", "path", "result"),
    [
        ("/e/bin/python", "/e/bin/python", "/usr/bin:/bin", "/e/bin:/usr/bin:/bin"),
        ("/e/bin/python", "/e/bin/python", "/e/bin:/bin", "/e/bin:/bin"),
        ("/e/bin/python", "/e/bin/python", "/bin:/e/bin", "/e/bin:/bin:/e/bin"),
        ("/e/bin/python", "/e/bin/python", "", "/e/bin"),
        ("python3.9", "python3.9", "/bin", "/bin"),
        (None, "/e/bin/python", "/bin", "/bin"),
    ],
)
def test_the_programs_of_a_chosen_interpreter_come_first(
    chosen: str | None, found: str, path: str, result: str
) -> None:
    known = {"a": facts("eth0=10.0.0.1/24", "10.0.0.1", path=path, python=Interpreter(path=found))}
    assert planned(replace(A, python=chosen), known=known).nodes[0].path == result


RUNS_MODULE = {"workload": Workload("pkg.train", "module", "pkg.train", cwd="src"), "args": ("--lr", "0.1")}
VARIABLES = {
    "PYTHONUNBUFFERED": "1",
    "PATH": "/usr/bin",
    "GLOO_SOCKET_IFNAME": "eth0",
    "NCCL_SOCKET_IFNAME": "=eth0",
    "ORCH_RUN_ID": "run1",
    "ORCH_ATTEMPT": "1",
    "ORCH_NODE": "a",
    "ORCH_BACKEND": "gloo",
    "ORCH_DATA": "/home/u/orch-work/data",
    "ORCH_OUTPUT_DIR": "/home/u/orch-work/runs/a/run1/orch-output",
}


def test_the_command_of_a_module_in_a_folder() -> None:
    assert commands(planned(**RUNS_MODULE)) == (
        NodeCommand(
            node="a",
            node_rank=0,
            cwd="/home/u/orch-work/runs/a/run1/src",
            argv=(
                "/usr/bin/python3",
                "-m",
                "torch.distributed.run",
                "--nnodes=1",
                "--nproc_per_node=1",
                "--node_rank=0",
                "--master_addr=10.0.0.1",
                "--master_port=29500",
                "--max_restarts=0",
                "--log_dir=/home/u/.orch/a/runs/run1/attempt1/logs",
                "--redirects=3",
                "-m",
                "pkg.train",
                "--lr",
                "0.1",
            ),
            env=VARIABLES,
            files={},
        ),
    )


@pytest.mark.parametrize(
    ("asked", "more"),
    [
        (
            {"debug": True},
            {"TORCH_DISTRIBUTED_DEBUG": "DETAIL", "NCCL_DEBUG": "INFO", "TORCH_CPP_LOG_LEVEL": "INFO"},
        ),
        ({"nnodes": (1, 1)}, {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}),
        ({"launcher": "accelerate"}, {"PET_REDIRECTS": "3", "ACCELERATE_USE_CPU": "true"}),
        ({"launcher": "accelerate", "backend": "nccl"}, {"PET_REDIRECTS": "3", "ORCH_BACKEND": "nccl"}),
        # The user's variables override what orch chooses, but not what it tells the workload.
        ({"env": {"PATH": "/mine", "ORCH_NODE": "z"}}, {"PATH": "/mine"}),
    ],
)
def test_the_variables_of_a_node(asked: dict[str, Any], more: dict[str, str]) -> None:
    assert commands(planned(**asked))[0].env == VARIABLES | more


def test_what_is_unknown_about_a_node_is_not_in_its_command() -> None:
    made = planned(known={"a": facts(ssh="10.0.0.1", path="")}, rdzv_backend="c10d")
    left_out = {"PATH", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"}
    assert commands(made)[0].env == {name: value for name, value in VARIABLES.items() if name not in left_out}
    assert "--local_addr=10.0.0.1" in command(made, made.nodes[0]).argv
    bare = command(made, replace(made.nodes[0], address=None)).argv
    assert not [word for word in bare if word.startswith("--local_addr")]


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ({"rdzv_id": "j"}, ["--rdzv_endpoint=10.0.0.1:29500", "--rdzv_id=j", "--rdzv_conf=is_host=false"]),
        # At an endpoint that the user names, torchrun finds out itself who opens the store.
        ({"rdzv_endpoint": "h:1"}, ["--rdzv_endpoint=h:1", "--rdzv_id=run1"]),
        (
            {"rdzv_endpoint": "h:1", "nnodes": (1, 2)},
            ["--rdzv_endpoint=h:1", "--rdzv_id=run1", "--rdzv_conf=last_call_timeout=15"],
        ),
    ],
)
def test_the_options_of_a_c10d_rendezvous(asked: dict[str, Any], options: list[str]) -> None:
    argv = commands(planned(A, B, **asked))[1].argv
    begins = argv.index("--rdzv_backend=c10d")
    assert list(argv[begins + 1 : argv.index("--max_restarts=0")]) == [*options, "--local_addr=10.0.0.2"]


def offline(*hosts: Host, **spec: Any) -> LaunchPlan:
    """Return a plan made without asking the nodes."""
    return planned(*hosts, known={host.name: assumed_facts(host) for host in hosts}, **spec)


OFFLINE = (
    Host("a", "a", fabric_address="10.0.0.1", env={"HF_TOKEN": "hush", "CACHE": "~/c d", "SAID": "it's"}),
    Host("b", "b", fabric_address="10.0.0.2", workdir="/w", python="~/env/bin/python", gpus=2),
)
SH = """\
# a (node_rank 0)
cd "$HOME"/orch-work/runs/a/run1 && env \\
  PYTHONUNBUFFERED=1 \\
  HF_TOKEN="${HF_TOKEN}" \\
  CACHE="$HOME"/'c d' \\
  SAID='it'"'"'s' \\
  ORCH_RUN_ID=run1 \\
  ORCH_ATTEMPT=1 \\
  ORCH_NODE=a \\
  ORCH_BACKEND=gloo \\
  ORCH_DATA="$HOME"/orch-work/data \\
  ORCH_OUTPUT_DIR="$HOME"/orch-work/runs/a/run1/orch-output \\
  python3 -m torch.distributed.run --nnodes=2 --nproc_per_node=1 --node_rank=0 --master_addr=10.0.0.1 \
--master_port=29500 --max_restarts=0 --log_dir="$HOME"/.orch/a/runs/run1/attempt1/logs --redirects=3 \
t.py --out="$HOME"/'o~/p' 'x~/y' '--api-key=***' '--a b='"$HOME"/c '~'

# b (node_rank 1)
cd /w/runs/b/run1 && env \\
  PYTHONUNBUFFERED=1 \\
  PATH="$HOME"/env/bin \\
  ORCH_RUN_ID=run1 \\
  ORCH_ATTEMPT=1 \\
  ORCH_NODE=b \\
  ORCH_BACKEND=gloo \\
  ORCH_DATA=/w/data \\
  ORCH_OUTPUT_DIR=/w/runs/b/run1/orch-output \\
  "$HOME"/env/bin/python -m torch.distributed.run --nnodes=2 --nproc_per_node=2 --node_rank=1 \
--master_addr=10.0.0.1 --master_port=29500 --max_restarts=0 --log_dir="$HOME"/.orch/b/runs/run1/attempt1/logs \
--redirects=3 t.py --out="$HOME"/'o~/p' 'x~/y' '--api-key=***' '--a b='"$HOME"/c '~'
"""


def test_a_plan_made_offline_as_sh() -> None:
    args = ("--out=~/o~/p", "x~/y", "--api-key=hush", "--a b=~/c", "~")
    assert as_sh(offline(*OFFLINE, args=args)) == SH


def test_what_is_assumed_about_a_node_comes_from_the_inventory() -> None:
    assert assumed_facts(Host("a", "h", user="u", python="/e/python")) == Facts(
        node="a",
        hostname="a",
        home="~",
        user="u",
        system="Linux",
        path="",
        python=Interpreter(path="/e/python"),
        gpus=0,
        addresses=(),
        routes=(),
        ssh_address=None,
        free_port=29500,
        trees=(),
        running=None,
    )
    known = assumed_facts(A)
    assert (known.user, known.python.path) == ("", "python3")


PS1 = """\
# a (node_rank 0)
Set-Location -LiteralPath '/home/u/orch-work/runs/a/run1'
$env:PYTHONUNBUFFERED = '1'
$env:PATH = '/usr/bin'
$env:GLOO_SOCKET_IFNAME = 'eth0'
$env:NCCL_SOCKET_IFNAME = '=eth0'
$env:PET_REDIRECTS = '3'
$env:ACCELERATE_USE_CPU = 'true'
$env:X = 'it''s'
$env:ORCH_RUN_ID = 'run1'
$env:ORCH_ATTEMPT = '1'
$env:ORCH_NODE = 'a'
$env:ORCH_BACKEND = 'gloo'
$env:ORCH_DATA = '/home/u/orch-work/data'
$env:ORCH_OUTPUT_DIR = '/home/u/orch-work/runs/a/run1/orch-output'
New-Item -Force -ItemType File -Path '/home/u/.orch/a/runs/run1/attempt1/accelerate.yaml' -Value \
'compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
num_machines: 1
machine_rank: 0
main_process_ip: ''10.0.0.1''
main_process_port: 29500
num_processes: 1
mixed_precision: ''no''
rdzv_backend: static
same_network: true
use_cpu: false
' | Out-Null
& '/usr/bin/python3' '-m' 'accelerate.commands.launch' \
'--config_file=/home/u/.orch/a/runs/run1/attempt1/accelerate.yaml' '--same_network' \
'--log_dir=/home/u/.orch/a/runs/run1/attempt1/logs' 't.py' '--api-key=***'
"""


def test_a_plan_as_powershell() -> None:
    asked = {"launcher": "accelerate", "env": {"X": "it's", "HF_TOKEN": "hush"}, "args": ("--api-key=hush",)}
    assert as_ps1(planned(**asked)) == PS1
    heads = [block.splitlines()[0] for block in as_ps1(planned(A, B)).split("\n\n")]
    assert heads == ["# a (node_rank 0)", "# b (node_rank 1)"]


def test_a_plan_as_json() -> None:
    made = planned(env={"HF_TOKEN": "hush"}, args=("--api-key=hush",), nproc=2)
    argv = [*commands(made)[0].argv[:-1], "--api-key=***"]
    assert as_dict(made) == {
        "run_id": "run1",
        "attempt": 1,
        "spec": {
            "workload": {"name": "t.py", "kind": "script", "target": "t.py", "cwd": ".", "project": "project"},
            "args": ["--api-key=***"],
            "nproc": 2,
            "backend": "auto",
            "env": {"HF_TOKEN": "***"},
            "port": None,
            "rdzv_backend": None,
            "rdzv_id": None,
            "rdzv_endpoint": None,
            "debug": False,
            "launcher": "torchrun",
            "mixed_precision": "no",
            "nnodes": None,
            "restarts": 0,
        },
        "backend": "gloo",
        "nnodes": 1,
        "world_size": 2,
        "master_addr": "10.0.0.1",
        "master_port": 29500,
        "rdzv_backend": "static",
        "rdzv_id": "run1",
        "rdzv_endpoint": "10.0.0.1:29500",
        "notes": [],
        "nodes": [
            {
                "node": "a",
                "node_rank": 0,
                "nproc_per_node": 2,
                "first_rank": 0,
                "interface": "eth0",
                "address": "10.0.0.1",
                "cwd": "/home/u/orch-work/runs/a/run1",
                "argv": argv,
                "env": {**VARIABLES, "HF_TOKEN": "***"},
                "files": {},
            }
        ],
    }
    elastic = planned(A, B, nnodes=(1, 2))
    assert as_dict(elastic)["nnodes"] == "1:2" and as_dict(elastic)["notes"] == list(elastic.notes)
    assert json.loads(as_json(made)) == as_dict(made)
    assert as_json(made).startswith('{\n  "run_id": "run1",\n') and as_json(made).endswith("\n}\n")


def packages(**files: str) -> str:
    """Return the flattened form of ``env/base.txt``; ``files`` maps names in ``env/`` to their texts."""
    texts = {f"env/{name}.txt": text for name, text in files.items()}
    return flattened("env/base.txt", texts.__getitem__)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("torch==2.4\nnumpy\n", "torch==2.4\nnumpy"),
        ("  torch   >= 2 \n\n\t\n", "torch >= 2"),
        ("# a comment\n  # another\ntorch # why\nnumpy\t#why\n", "torch\nnumpy"),
        ("# see x #1\n", ""),
        ("a @ https://h/a.whl#sha256=1\n", "a @ https://h/a.whl#sha256=1"),
        (
            "torch \\\n  --hash=sha256:1 \\\n  --hash=sha256:2\nnumpy",
            "torch --hash=sha256:1 --hash=sha256:2\nnumpy",
        ),
        ("--index-url https://h/simple\n", "--index-url https://h/simple"),
        ("", ""),
    ],
)
def test_requirements_lose_comments_and_spaces(text: str, lines: str) -> None:
    assert packages(base=text) == lines


@pytest.mark.parametrize(
    "include", ["-r more.txt", "-rmore.txt", "--requirement more.txt", "--requirement=more.txt"]
)
def test_included_requirements_stand_where_they_are_included(include: str) -> None:
    found = packages(base=f"a\n{include}  # both\nd\n", more="b\n-r last.txt\n", last="c # c\n")
    assert found == "a\nb\nc\nd"


@pytest.mark.parametrize(
    "line",
    [
        ".",
        "./pkg",
        "../pkg",
        "/src/pkg",
        "file:///src/pkg",
        "-e .",
        "--editable=.",
        "-c limits.txt",
        "--constraint limits.txt",
        "-f wheels",
        "--find-links=wheels",
        "pkg @ file:///src/pkg",
    ],
)
def test_requirements_on_this_machine_are_refused_by_line(line: str) -> None:
    for path, files in (
        ("base", {"base": f"a\n# b\n  {line}  # c"}),
        ("more", {"more": f"\n\n{line}", "base": "-rmore.txt"}),
    ):
        with pytest.raises(UsageError) as refused:
            packages(**files)
        assert str(refused.value) == (
            f"env/{path}.txt line 3: {line!r} is on this machine only → "
            "name packages with their versions instead; orch syncs the project's own code itself"
        )


def test_the_dependencies_of_a_project() -> None:
    assert of_pyproject("p", '[project]\nname = "x"\ndependencies = ["torch>=2", "numpy"]\n') == "torch>=2\nnumpy"
    assert of_pyproject("p", "[project]\ndependencies = []\n") == ""
    for text in ("", "[project]\n", "[project]\ndependencies = 'torch'\n", "[project]\ndependencies = ['a', 1]\n"):
        with pytest.raises(UsageError) as refused:
            of_pyproject("sub/pyproject.toml", text)
        assert str(refused.value) == (
            "sub/pyproject.toml has no project.dependencies list → add it, or name a requirements.txt in env:"
        )
    with pytest.raises(UsageError, match=r"^sub/pyproject\.toml is not TOML: .+ \(at line 2, column 5\)$"):
        of_pyproject("sub/pyproject.toml", "[project]\na = ?")


def test_an_environment_is_found_by_its_packages_and_interpreter() -> None:
    made = Environment("requirements.txt", "torch==2.4\nnumpy", None)
    assert made.key == replace(made, source="other.txt").key and re.fullmatch("[0-9a-f]{32}", made.key)
    keys = {made.key, replace(made, python="/usr/bin/python3").key, replace(made, requirements="torch==2.4").key}
    assert len(keys) == 3
    assert made.folder("/w") == f"/w/.orch/envs/by-request/{made.key}"
    assert made.interpreter("/w") == f"/w/.orch/envs/by-request/{made.key}/bin/python"


OLD = ["manylinux_2_5_x", "manylinux1_x", "linux_x"]
SINCE_12 = ["manylinux_2_12_x", "manylinux2010_x", *[f"manylinux_2_{minor}_x" for minor in range(11, 5, -1)], *OLD]
SINCE_17 = [
    "manylinux_2_17_x",
    "manylinux2014_x",
    *[f"manylinux_2_{minor}_x" for minor in range(16, 12, -1)],
    *SINCE_12,
]


@pytest.mark.parametrize(
    ("libc", "platforms"),
    [
        ("glibc 2.5", OLD),
        ("glibc 2.12", SINCE_12),
        ("glibc 2.17", SINCE_17),
        ("glibc 2.19.1", ["manylinux_2_19_x", "manylinux_2_18_x", *SINCE_17]),
        ("glibc 2.4", ["linux_x"]),
        # A glibc whose version is unknown counts as the oldest that current wheels ask for.
        ("glibc", SINCE_17),
        ("glibc 2", SINCE_17),
        ("musl 1.2.4", ["musllinux_1_2_x", "musllinux_1_1_x"]),
        ("", ["musllinux_1_2_x", "musllinux_1_1_x"]),
    ],
)
def test_wheels_for_a_node_are_for_its_libc_or_an_older_one(libc: str, platforms: list[str]) -> None:
    assert wheel_platforms("x", libc) == platforms


def test_requirements_that_include_each_other_are_refused() -> None:
    files = {"a/r.txt": "-r s.txt", "a/s.txt": "torch\n-r ../a/r.txt"}
    with pytest.raises(UsageError, match=r"^a/r\.txt includes itself"):
        flattened("a/r.txt", files.__getitem__)


def test_a_comment_of_requirements_ends_with_its_line() -> None:
    assert flattened("r.txt", lambda _: "# c \\\ntorch \\\n  >=2 \\\n  ,<3\nx") == "torch >=2 ,<3\nx"


@pytest.mark.parametrize("line", ["pkg @ file:///x", "pkg@file:///x"])
def test_a_requirement_of_this_machine_is_refused(line: str) -> None:
    with pytest.raises(UsageError, match="is on this machine only"):
        flattened("r.txt", lambda _: line)


def test_a_project_that_is_no_table_lists_no_dependencies() -> None:
    with pytest.raises(UsageError, match=r"^p\.toml has no project\.dependencies list"):
        of_pyproject("p.toml", "project = 'x'")
