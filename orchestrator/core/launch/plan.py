"""Plan an attempt: each node's processes and ranks, and where they meet, from hosts, a RunSpec and facts.

Run id and facts are inputs, so the same inputs give the same plan, and ``--dry-run`` prints what would run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.core.checks.facts import Facts
from orchestrator.core.inventory.hosts import Host, Rendezvous
from orchestrator.core.launch.addresses import interface_towards, master_address, on_interface
from orchestrator.errors import PreflightError, UsageError
from orchestrator.protocol.facts import Interpreter

DEFAULT_PORT = 29500


@dataclass(frozen=True)
class Workload:
    """What runs: ``target`` is a script's path or a module's name, relative to ``cwd`` within the tree."""

    name: str
    kind: str
    target: str
    cwd: str = "."
    project: str = "project"


@dataclass(frozen=True)
class RunSpec:
    """What the user asked for. ``nproc`` None leaves the number of processes to the inventory or the node.

    ``nnodes`` holds the fewest and the most nodes of an elastic run, whose ranks torchrun itself may restart
    ``restarts`` times; None means that the run needs all its nodes.
    """

    workload: Workload
    args: tuple[str, ...] = ()
    nproc: int | None = None
    backend: str = "auto"
    env: Mapping[str, str] = field(default_factory=dict)
    port: int | None = None
    rdzv_backend: str | None = None
    rdzv_id: str | None = None
    rdzv_endpoint: str | None = None
    debug: bool = False
    launcher: str = "torchrun"
    mixed_precision: str = "no"
    nnodes: tuple[int, int] | None = None
    restarts: int = 0


@dataclass(frozen=True)
class NodePlan:
    """One node's part. Paths are absolute on that node; ``first_rank`` is None if torchrun assigns the ranks."""

    node: str
    node_rank: int
    first_rank: int | None
    nproc_per_node: int
    address: str | None
    interface: str | None
    python: str
    path: str
    workdir: str
    work: str
    attempt_dir: str
    env: Mapping[str, str]


@dataclass(frozen=True)
class LaunchPlan:
    """One attempt of a run before it starts. ``nodes`` is in node_rank order."""

    run_id: str
    attempt: int
    spec: RunSpec
    nodes: tuple[NodePlan, ...]
    backend: str
    master_addr: str
    master_port: int
    rdzv_backend: str
    rdzv_id: str
    rdzv_endpoint: str
    notes: tuple[str, ...] = ()

    @property
    def world_size(self) -> int:
        """Number of processes on all nodes together."""
        return sum(node.nproc_per_node for node in self.nodes)

    @property
    def min_nodes(self) -> int | None:
        """Fewest nodes that an elastic run needs; None for a run that needs all of its nodes."""
        return self.spec.nnodes and self.spec.nnodes[0]

    @property
    def nnodes(self) -> str:
        """Value of torchrun's ``--nnodes``: ``3``, or ``2:3``."""
        return "{}:{}".format(*self.spec.nnodes) if self.spec.nnodes else str(len(self.nodes))


def plan(
    hosts: Sequence[Host],
    rendezvous: Rendezvous,
    spec: RunSpec,
    facts: Mapping[str, Facts],
    run_id: str,
    attempt: int = 1,
) -> LaunchPlan:
    """Plan an attempt of a run on ``hosts``, the first of which is the master.

    Each attempt uses a different master port, so that processes left over from an earlier attempt cannot join it.

    Raises UsageError for options that exclude each other, and PreflightError if no address of the
    master can be reached by all nodes or the master has no free port.
    """
    master = hosts[0]
    address = master_address(master, hosts, facts, rendezvous.interface)
    port = _master_port(master, rendezvous, spec, facts, attempt)
    rdzv_backend, rdzv_id, endpoint = _rendezvous(
        rendezvous, spec, f"{_bracketed(address)}:{port}", run_id, attempt
    )
    _refuse_contradictions(spec, rdzv_backend, len(hosts))
    notes = []
    if rdzv_backend == "c10d":
        notes.append("c10d: torchrun assigns node ranks itself and ignores node_rank, so the order may differ")
    nodes: list[NodePlan] = []
    first_rank = 0
    for node_rank, host in enumerate(hosts):
        known = facts[host.name]
        made = NodePlan(
            node=host.name,
            node_rank=node_rank,
            first_rank=first_rank if rdzv_backend == "static" else None,
            nproc_per_node=nproc_per_node(host, known, spec),
            address=address if node_rank == 0 else own_address(host, known, address, rendezvous.interface),
            interface=interface_towards(host, known, address, rendezvous.interface),
            python=known.python.path,
            path=_search_path(host, known),
            workdir=known.expand(host.workdir),
            work=f"{known.expand(host.workdir)}/runs/{known.hostname}/{run_id}",
            attempt_dir=f"{known.home}/.orch/{known.hostname}/runs/{run_id}/attempt{attempt}",
            env={**host.env, **spec.env},
        )
        if made.interface is None and len(hosts) > 1:
            notes.append(f"{host.name}: no interface towards {address} found; torch chooses one by itself")
        nodes.append(made)
        first_rank += made.nproc_per_node
    return LaunchPlan(
        run_id=run_id,
        attempt=attempt,
        spec=spec,
        nodes=tuple(nodes),
        backend=_backend(spec, hosts, facts),
        master_addr=address,
        master_port=port,
        rdzv_backend=rdzv_backend,
        rdzv_id=rdzv_id,
        rdzv_endpoint=endpoint,
        notes=tuple(notes),
    )


def _master_port(
    master: Host, rendezvous: Rendezvous, spec: RunSpec, facts: Mapping[str, Facts], attempt: int
) -> int:
    fixed = spec.port or rendezvous.port
    port = fixed if fixed and attempt == 1 else facts[master.name].free_port
    if port is None:
        raise PreflightError(f"no TCP port from {DEFAULT_PORT} on is free", remedy="pass --port", host=master.name)
    return port


def _refuse_contradictions(spec: RunSpec, rdzv_backend: str, hosts: int) -> None:
    """Raise UsageError for options that exclude each other or do not fit the number of hosts."""
    if spec.launcher == "accelerate" and rdzv_backend != "static":
        remedy = "leave out the rendezvous options or --launcher accelerate"
        raise UsageError("accelerate works with the static rendezvous only, not with c10d", remedy=remedy)
    if spec.nnodes is not None and not spec.nnodes[0] <= hosts <= spec.nnodes[1]:
        low, high = spec.nnodes
        remedy = f"choose with --nodes {high}" if hosts > high else "add hosts, or lower MIN"
        raise UsageError(f"--nnodes {low}:{high}: there are {hosts} hosts", remedy=remedy)


def nproc_per_node(host: Host, facts: Facts, spec: RunSpec) -> int:
    """Return the number of processes on a node: the user's, the inventory's, one per GPU, or one."""
    return spec.nproc or nproc_for(host, facts, spec.env)


# The first of these that is set decides which GPUs a process sees.
VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")


def nproc_for(host: Host, facts: Facts, env: Mapping[str, str] | None = None) -> int:
    """Return the number of processes on a node if the user gives none; ``env`` overrides the host's variables."""
    known = {**host.env, **(env or {})}
    visible = next((known[name] for name in VISIBLE if name in known), None)
    if visible is not None and not host.nproc:
        return len([part for part in visible.split(",") if part.strip() not in ("", "-1")]) or 1
    return host.nproc or host.gpus or (facts.gpus if host.gpus is None else 0) or 1


def ranks_of(first_rank: int | None, nproc: int) -> range:
    """Return the ranks of a node; empty if torchrun assigns them."""
    return range(0) if first_rank is None else range(first_rank, first_rank + nproc)


def assumed_facts(host: Host) -> Facts:
    """Return facts for a plan made without asking the nodes: the inventory's values, and defaults for the rest."""
    return Facts(
        node=host.name,
        hostname=host.name,
        home="~",
        user=host.user or "",
        system="Linux",
        path="",
        python=Interpreter(path=host.python or "python3"),
        gpus=0,
        addresses=(),
        routes=(),
        ssh_address=None,
        free_port=DEFAULT_PORT,
        trees=(),
        running=None,
    )


def _rendezvous(
    rendezvous: Rendezvous, spec: RunSpec, default: str, run_id: str, attempt: int
) -> tuple[str, str, str]:
    backend = spec.rdzv_backend or rendezvous.backend
    if spec.rdzv_id or spec.rdzv_endpoint or spec.nnodes:
        backend = "c10d"
    endpoint = spec.rdzv_endpoint or rendezvous.endpoint or default
    rdzv_id = spec.rdzv_id or rendezvous.id or run_id
    return backend, rdzv_id if attempt == 1 else f"{rdzv_id}-{attempt}", endpoint


def _backend(spec: RunSpec, hosts: Sequence[Host], facts: Mapping[str, Facts]) -> str:
    if spec.backend != "auto":
        return spec.backend
    return "nccl" if all(facts[host.name].gpus for host in hosts) else "gloo"


def own_address(host: Host, facts: Facts, master_addr: str, named: str | None = None) -> str | None:
    """Return the address that a node gives the others: ``fabric_address``, or one on its interface to the master.

    None if that interface is unknown or has no address.
    """
    interface = interface_towards(host, facts, master_addr, named)
    if host.fabric_address:
        return host.fabric_address
    mine = [entry.address for entry in facts.addresses if entry.interface == interface]
    if facts.ssh_address and (facts.ssh_address in mine or facts.ssh_address.startswith("127.")):
        return facts.ssh_address
    return on_interface(facts, interface) if interface else None


def _search_path(host: Host, facts: Facts) -> str:
    """Return PATH with the interpreter's folder first, so that scripts find the programs of their environment."""
    folder = facts.python.path.rpartition("/")[0]
    if not host.python or not folder or facts.path.split(":")[0] == folder:
        return facts.path
    return f"{folder}:{facts.path}" if facts.path else folder


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
