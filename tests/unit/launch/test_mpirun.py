"""mpirun's command lines, word by word, and what does not go with mpirun."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.inventory.hosts import Host
from orchestrator.core.launch.command import commands
from orchestrator.core.launch.mpirun import hosts_of, told, with_mpi
from orchestrator.core.launch.plan import LaunchPlan, Mpi
from orchestrator.core.launch.script.sh import sh_scripts
from orchestrator.errors import PreflightError, UsageError
from orchestrator.protocol.facts import Parts
from orchestrator.protocol.launch.mpi import MpiFound
from tests.unit.launch.plans import A, B, planned

OPEN_MPI_4 = MpiFound(
    program="/usr/bin/mpirun", said="mpirun (Open MPI) 4.1.4\n\nReport bugs to http://www.open-mpi"
)
OPEN_MPI_5 = MpiFound(
    program="/v/bin/mpirun", said="mpirun (Open MPI) 5.0.11\n\nReport bugs to https://www.open-mpi"
)
MPICH = MpiFound(
    program="/v/bin/mpirun",
    said="HYDRA build details:\n    Version:                                 5.0.2\n    Release Date:   Fri Sep 25",
)
INTEL = MpiFound(program="/opt/mpirun", said="Intel(R) MPI Library for Linux* OS, Version 2021.9")
RANK = """sh -c 'exec "$ORCH_MPI_PYTHON" -I -S "$ORCH_MPI_PROGRAM" mpi-rank'"""


def made(found: MpiFound | None, *hosts: Host, **spec: Any) -> LaunchPlan:
    """Return the plan of a run that this mpirun starts, by default on hosts a and b."""
    hosts = hosts or (A, B)
    parts = {host.name: Parts(mpi=found) for host in hosts}
    return with_mpi(planned(*hosts, launcher="mpirun", **spec), hosts, parts)


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (
            OPEN_MPI_4,
            "/usr/bin/mpirun -n 4 --host 10.0.0.1:2,10.0.0.2:2 --map-by slot --bind-to none --wdir / --mca plm rsh "
            "--mca plm_rsh_agent '{agent}' --mca plm_rsh_no_tree_spawn 1 --mca orte_leave_session_attached 1 "
            "--mca orte_abort_on_non_zero_status 0 --mca oob_tcp_if_include eth0 --mca btl_tcp_if_include eth0",
        ),
        (
            OPEN_MPI_5,
            "/v/bin/mpirun -n 4 --host 10.0.0.1:2,10.0.0.2:2 --map-by slot --bind-to none --wdir / --prtemca plm ssh "
            "--prtemca plm_ssh_agent '{agent}' --prtemca plm_ssh_no_tree_spawn 1 --prtemca prte_if_include eth0 "
            "--leave-session-attached --runtime-options error-nonzero-status=0 --mca btl_tcp_if_include eth0",
        ),
        (
            MPICH,
            "/v/bin/mpirun -n 4 -hosts 10.0.0.1:2,10.0.0.2:2 -wdir / -genvnone -launcher ssh -launcher-exec '{agent}' "
            "-disable-auto-cleanup -iface eth0",
        ),
    ],
)
def test_the_first_node_starts_mpirun_and_the_others_become_its_daemons(found: MpiFound, line: str) -> None:
    plan = made(found, nproc=2, args=("--token", "s3cret"))
    first, second = commands(plan)
    assert shlex.join(first.argv) == f"orch-node mpi-lead {line} {RANK}"
    assert second.argv == ("orch-node", "mpi-daemon")
    assert hosts_of(plan) == ("10.0.0.1", "10.0.0.2")
    # What each rank runs goes to its node by itself.
    assert first.inside is not None and second.inside is not None
    assert first.inside.argv == second.inside.argv == ("/usr/bin/python3", "-u", "t.py", "--token", "s3cret")
    assert (first.env["MASTER_ADDR"], first.env["MASTER_PORT"]) == ("10.0.0.1", "29500")
    assert ("OMPI_ALLOW_RUN_AS_ROOT" in first.env) == (found is not MPICH)
    assert [each.env["NODE_RANK"] for each in (first, second)] == ["0", "1"]


def test_an_interface_that_differs_between_nodes_is_left_to_the_mpi() -> None:
    plan = made(OPEN_MPI_4)
    nodes = (plan.nodes[0], replace(plan.nodes[1], interface="ens5"))
    assert "oob_tcp_if_include" not in commands(replace(plan, nodes=nodes))[0].argv


def test_which_mpi_mpirun_belongs_to() -> None:
    assert told(OPEN_MPI_4) == Mpi("openmpi", 4, "/usr/bin/mpirun")
    assert told(MpiFound(program="x", said="prterun (PRRTE) 3.0.1")) == Mpi("openmpi", 3, "x")
    assert told(MPICH) == Mpi("mpich", 5, "/v/bin/mpirun")
    assert told(INTEL) is None


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ((None, None), "a: no mpirun is in PATH or beside the interpreter"),
        ((OPEN_MPI_4, None), "b: no mpirun is in PATH or beside the interpreter"),
        ((INTEL, INTEL), "a: /opt/mpirun is neither Open MPI's nor MPICH's"),
        ((OPEN_MPI_4, MPICH), "b: mpirun is MPICH 5's here, but Open MPI 4's on a"),
        ((OPEN_MPI_4, OPEN_MPI_5), "b: mpirun is Open MPI 5's here, but Open MPI 4's on a"),
    ],
)
def test_hosts_without_the_same_mpi(found: tuple[MpiFound | None, ...], said: str) -> None:
    parts = dict(zip("ab", (Parts(mpi=each) for each in found), strict=True))
    with pytest.raises(PreflightError) as refused:
        with_mpi(planned(A, B, launcher="mpirun"), (A, B), parts)
    assert str(refused.value).startswith(said) and "→ install" in str(refused.value)


def test_an_mpirun_that_does_not_answer_is_named() -> None:
    parts = {"a": Parts(unanswered={"mpi": "no answer within 8 s"})}
    with pytest.raises(PreflightError, match="mpirun does not work: no answer within 8 s"):
        with_mpi(planned(A, launcher="mpirun"), (A,), parts)


def test_what_does_not_go_with_mpirun() -> None:
    with pytest.raises(UsageError, match="a fixed number of ranks"):
        made(OPEN_MPI_4, rdzv_backend="c10d")
    with pytest.raises(UsageError, match="only the nodes know which mpirun they have"):
        with_mpi(planned(A, launcher="mpirun"), (A,), None)
    same = planned(A, B, launcher="mpirun")
    nodes = tuple(replace(node, address="127.0.0.1") for node in same.nodes)
    with pytest.raises(UsageError, match="mpirun tells hosts apart by their addresses"):
        with_mpi(replace(same, nodes=nodes), (A, B), {})
    with pytest.raises(UsageError, match="mpirun's daemons get their command lines from orch"):
        sh_scripts(made(MPICH))
    # Another launcher asks for no MPI.
    assert with_mpi(planned(A), (A,), {}).mpi is None
