"""The GPUs of one machine, shared out between the hosts of the embedded cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.inventory.hosts import Host, Rendezvous
from orchestrator.core.launch.plan import LaunchPlan, RunSpec, plan
from orchestrator.errors import PreflightError
from tests.unit.launch.plans import SCRIPT, A, B, C, facts


def shared(*hosts: Host, gpus: int, **spec: Any) -> LaunchPlan:
    """Return a plan for hosts that are one machine with ``gpus`` GPUs."""
    known = {
        host.name: facts("lo=127.0.0.1/8", f"127.0.0.{last}", gpus=gpus) for last, host in enumerate(hosts, 1)
    }
    return plan(hosts, Rendezvous(), RunSpec(SCRIPT, **spec), known, "run1", one_machine=True)


def seen(made: LaunchPlan) -> list[tuple[str | None, int]]:
    """Return the GPUs that each node's ranks see, and its number of processes."""
    return [(node.env.get("CUDA_VISIBLE_DEVICES"), node.nproc_per_node) for node in made.nodes]


def test_each_host_gets_gpus_of_its_own() -> None:
    made = shared(A, B, gpus=5)
    assert seen(made) == [("0,1", 2), ("2,3", 2)] and made.backend == "nccl"
    assert made.notes[0] == "2 hosts of the embedded cluster share 5 GPUs: 2 for each"


def test_hosts_that_outnumber_the_gpus_train_on_the_cpu() -> None:
    made = shared(A, B, gpus=1)
    assert seen(made) == [("", 1), ("", 1)] and made.backend == "gloo"
    assert made.notes[0] == (
        "2 hosts of the embedded cluster share 1 GPU, so they train on the CPU; to use it: --single-node"
    )
    assert seen(shared(A, B, C, gpus=2)) == [("", 1)] * 3


def test_nccl_is_refused_where_it_would_fail() -> None:
    with pytest.raises(PreflightError) as refused:
        shared(A, B, gpus=1, backend="nccl")
    assert str(refused.value) == (
        "2 hosts of the embedded cluster share 1 GPU; nccl needs one for each → "
        "to use it: --single-node; or --backend gloo"
    )


@pytest.mark.parametrize(
    ("hosts", "gpus", "spec", "expected"),
    [
        ((A,), 4, {}, [(None, 4)]),
        ((A, B), 0, {}, [(None, 1), (None, 1)]),
        ((A, B), 1, {"backend": "gloo"}, [(None, 1), (None, 1)]),
        ((A, B), 8, {"local": {"CUDA_VISIBLE_DEVICES": "6,7"}}, [("6", 1), ("7", 1)]),
        ((A, B), 8, {"env": {"CUDA_VISIBLE_DEVICES": "3"}}, [("3", 1), ("3", 1)]),
        ((replace(A, env={"CUDA_VISIBLE_DEVICES": "0"}), B), 2, {}, [("0", 1), (None, 2)]),
        ((replace(A, gpus=1), replace(B, gpus=1)), 2, {}, [(None, 1), (None, 1)]),
    ],
)
def test_what_the_user_says_stays(
    hosts: tuple[Host, ...], gpus: int, spec: dict[str, Any], expected: list[tuple[str | None, int]]
) -> None:
    made = shared(*hosts, gpus=gpus, **spec)
    assert seen(made) == expected
    assert ("embedded cluster" in "".join(made.notes)) == ("local" in spec)


def test_machines_of_their_own_keep_their_gpus() -> None:
    known = {host.name: facts("eth0=10.0.0.1/24", "10.0.0.1", gpus=1) for host in (A, B)}
    made = plan((A, B), Rendezvous(), RunSpec(SCRIPT), known, "run1")
    assert seen(made) == [(None, 1), (None, 1)] and made.backend == "nccl"
