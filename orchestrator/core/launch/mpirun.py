"""mpirun's command line, for Open MPI 4, Open MPI 5 (PRRTE) and MPICH (hydra).

mpirun runs on the first node. On each node, orch's part gives its ranks the variables of torchrun. So mpirun
starts the same short command line everywhere, without variables or arguments of the user.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from orchestrator.core.inventory.hosts import Host
from orchestrator.core.launch.plan import LaunchPlan, Mpi, NodePlan
from orchestrator.errors import PreflightError, UsageError
from orchestrator.protocol.facts import Parts
from orchestrator.protocol.launch.mpi import AGENT, DAEMON, LEAD, NODE_PROGRAM, MpiFound

# What mpirun starts on every node, by variables that each node sets for itself.
RANK = ("sh", "-c", 'exec "$ORCH_MPI_PYTHON" -I -S "$ORCH_MPI_PROGRAM" mpi-rank')
INSTALL = "install Open MPI there (Debian: openmpi-bin), or MPICH beside the interpreter: pip install mpich"


def told(found: MpiFound) -> Mpi | None:
    """Return the MPI that ``mpirun --version`` tells of; None for any other."""
    for kind, pattern in (
        ("openmpi", r"\(Open MPI\) (\d+)\."),
        ("openmpi", r"\(PRRTE\) (\d+)\."),
        ("mpich", r"HYDRA build details:\s+Version:\s+(\d+)\."),
    ):
        match = re.search(pattern, found.said)
        if match:
            return Mpi(kind, int(match[1]), found.program)
    return None


def chosen(hosts: Sequence[Host], parts: Mapping[str, Parts]) -> Mpi:
    """Return the MPI that all hosts have. Raises PreflightError if one has none, or another one."""
    first: Mpi | None = None
    for host in hosts:
        found = parts[host.name].mpi
        if found is None:
            why = parts[host.name].unanswered.get("mpi")
            what = f"mpirun does not work: {why}" if why else "no mpirun is in PATH or beside the interpreter"
            raise PreflightError(what, remedy=INSTALL, host=host.name)
        mpi = told(found)
        if mpi is None:
            what = f"{found.program} is neither Open MPI's nor MPICH's: {found.said.splitlines()[:1]}"
            raise PreflightError(what, remedy=INSTALL, host=host.name)
        first = first or mpi
        if (mpi.kind, mpi.major) != (first.kind, first.major):
            raise PreflightError(
                f"mpirun is {mpi}'s here, but {first}'s on {hosts[0].name}",
                remedy="install the same MPI on all hosts, or give python: of an environment that has it",
                host=host.name,
            )
    assert first is not None
    return first


def with_mpi(plan: LaunchPlan, hosts: Sequence[Host], parts: Mapping[str, Parts] | None) -> LaunchPlan:
    """Return a plan with the nodes' MPI, if mpirun starts its ranks. ``parts``: None if no node was asked.

    Raises UsageError for what does not go with mpirun, and PreflightError as ``chosen`` does.
    """
    if plan.spec.launcher != "mpirun":
        return plan
    if parts is None:
        remedy = "leave out --offline, or --launcher mpirun"
        raise UsageError("only the nodes know which mpirun they have", remedy=remedy)
    _refuse_contradictions(plan)
    return replace(plan, mpi=chosen(hosts, parts))


def _refuse_contradictions(plan: LaunchPlan) -> None:
    if plan.rdzv_backend != "static" or plan.spec.rdzv_conf:
        what = "mpirun starts a fixed number of ranks, without a rendezvous of torchrun"
        raise UsageError(what, remedy="leave out the options of the rendezvous and MIN:MAX, or --launcher mpirun")
    for node in plan.nodes:
        if node.container is not None:
            remedy = "leave out container:, or --launcher mpirun"
            raise UsageError("mpirun starts ranks outside of containers", remedy=remedy, host=node.node)
    addresses = [node.address for node in plan.nodes]
    if len(set(addresses)) < len(addresses) or None in addresses[1:]:
        remedy = "give each host a fabric_address; for one machine: --single-node --nproc N"
        raise UsageError(
            "mpirun tells hosts apart by their addresses, and these have none of their own", remedy=remedy
        )


def hosts_of(plan: LaunchPlan) -> tuple[str, ...]:
    """Return the nodes' names in mpirun's list of hosts: their addresses, in node_rank order."""
    return tuple(str(node.address) for node in plan.nodes)


def rank_argv(plan: LaunchPlan, node: NodePlan) -> list[str]:
    """Return the command line of a rank up to the script: without buffers, as torchrun starts it."""
    return [node.python, "-u"]


def starter_argv(plan: LaunchPlan, node: NodePlan) -> list[str]:
    """Return what a node starts: mpirun on the first one, and elsewhere what becomes mpirun's daemon."""
    if node.node_rank:
        return [NODE_PROGRAM, DAEMON]
    assert plan.mpi is not None
    starters: Mapping[str, Callable[[LaunchPlan, Mpi], list[str]]] = {"openmpi": _open_mpi, "mpich": _mpich}
    return [NODE_PROGRAM, LEAD, *starters[plan.mpi.kind](plan, plan.mpi), *RANK]


def variables(plan: LaunchPlan, node: NodePlan) -> dict[str, str]:
    """Return what ranks need besides MPI's variables. Open MPI refuses root without being asked twice."""
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    prrte = {"PRTE_ALLOW_RUN_AS_ROOT": "1", "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    meeting = {"MASTER_ADDR": plan.master_addr, "MASTER_PORT": str(plan.master_port)}
    return {**meeting, **(root | prrte if plan.mpi is not None and plan.mpi.kind == "openmpi" else {})}


def _places(plan: LaunchPlan) -> str:
    return ",".join(f"{node.address}:{node.nproc_per_node}" for node in plan.nodes)


def _interface(plan: LaunchPlan) -> str | None:
    """Return the interface that all nodes use, if it has the same name everywhere."""
    found = {node.interface for node in plan.nodes}
    return next(iter(found)) if len(found) == 1 else None


def _open_mpi(plan: LaunchPlan, mpi: Mpi) -> list[str]:
    """Return the command line of Open MPI's mpirun. Ranks are placed node by node, in the order of the hosts."""
    words = [mpi.program, "-n", str(plan.world_size), "--host", _places(plan), "--map-by", "slot"]
    words += ["--bind-to", "none", "--wdir", "/"]
    interface = _interface(plan)
    if mpi.major < 5:
        settings = {
            # Not Slurm's or another scheduler's way to start daemons.
            "plm": "rsh",
            "plm_rsh_agent": AGENT,
            # Every daemon is started from the first node.
            "plm_rsh_no_tree_spawn": "1",
            # Daemons stay children of orch's supervisors.
            "orte_leave_session_attached": "1",
            # orch ends the ranks, with their grace. mpirun would kill all two seconds after one has failed.
            "orte_abort_on_non_zero_status": "0",
            **({"oob_tcp_if_include": interface, "btl_tcp_if_include": interface} if interface else {}),
        }
        return [*words, *(word for name, value in settings.items() for word in ("--mca", name, value))]
    runtime = {
        "plm": "ssh",
        "plm_ssh_agent": AGENT,
        "plm_ssh_no_tree_spawn": "1",
        **({"prte_if_include": interface} if interface else {}),
    }
    words += [word for name, value in runtime.items() for word in ("--prtemca", name, value)]
    words += ["--leave-session-attached", "--runtime-options", "error-nonzero-status=0"]
    return [*words, *(("--mca", "btl_tcp_if_include", interface) if interface else ())]


def _mpich(plan: LaunchPlan, mpi: Mpi) -> list[str]:
    """Return the command line of MPICH's mpiexec, without the first node's variables: each node has its own."""
    interface = _interface(plan)
    words = [mpi.program, "-n", str(plan.world_size), "-hosts", _places(plan), "-wdir", "/", "-genvnone"]
    words += ["-launcher", "ssh", "-launcher-exec", AGENT, "-disable-auto-cleanup"]
    return [*words, *(("-iface", interface) if interface else ())]
