"""Plans: who runs how many processes as which rank, and where the nodes meet."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.inventory.hosts import Host, Rendezvous
from orchestrator.core.launch.plan import (
    NodePlan,
    RunSpec,
    nproc_per_node,
    ranks_of,
)
from orchestrator.protocol.facts import Interpreter
from tests.unit.launch.plans import SCRIPT, A, B, C, facts, planned, refusal


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
