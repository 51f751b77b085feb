"""Plan an attempt: each node's processes and ranks, and where they meet, from hosts, a RunSpec and facts.

Run id and facts are inputs, so the same inputs give the same plan, and ``--dry-run`` prints what would run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.core.checks.facts import Facts
from orchestrator.core.inventory.hosts import Host, Rendezvous
from orchestrator.core.inventory.sections.container import Mount
from orchestrator.core.launch.addresses import interface_towards, master_address, on_interface
from orchestrator.core.launch.container.plan import ContainerPlan, container_plan
from orchestrator.core.launch.sharing import with_own_gpus
from orchestrator.core.launch.variables import INTERFACES, VISIBLE, visible_gpus
from orchestrator.core.text.counted import counted
from orchestrator.errors import PreflightError, UsageError
from orchestrator.protocol.container.image import EngineFacts
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
    """What the user asked for. ``nproc`` None leaves the number of processes to ``nproc_of``: the inventory or the
    node (``auto``), the node's GPUs (``gpu``) or its cores (``cpu``).

    ``local``: settings exported on the control machine; everything else that sets a variable overrides them.
    ``rdzv_conf``: further settings of torchrun's rendezvous.
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
    nproc_of: str = "auto"
    rdzv_conf: Mapping[str, str] = field(default_factory=dict)
    local: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NodePlan:
    """One node's part. Paths are absolute on that node; ``first_rank`` is None if torchrun assigns the ranks.

    ``hidden`` names the variables of ``env`` whose values are never shown.
    """

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
    hidden: frozenset[str] = frozenset()
    container: ContainerPlan | None = None


@dataclass(frozen=True)
class Mpi:
    """An MPI: ``openmpi`` or ``mpich``, its major version, and its starter's path on the first node."""

    kind: str
    major: int
    program: str

    def __str__(self) -> str:
        """Return its name for the user."""
        return f"{'Open MPI' if self.kind == 'openmpi' else 'MPICH'} {self.major}"


@dataclass(frozen=True)
class LaunchPlan:
    """One attempt of a run before it starts. ``nodes`` is in node_rank order.

    ``tee``: ranks write to the launcher's terminal as well as to files. ``trees``: the ids of the synced trees
    that make up each node's working folder, the code first. ``batch``: the options of sbatch, if the run is a job.
    ``mpi``: the MPI of the nodes, if mpirun starts the ranks.
    """

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
    tee: bool = False
    trees: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    batch: tuple[str, ...] = ()
    mpi: Mpi | None = None

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
    *,
    one_machine: bool = False,
) -> LaunchPlan:
    """Plan an attempt of a run on ``hosts``, the first of which is the master.

    ``one_machine``: the hosts are the same machine and share its GPUs. Each attempt uses a different master port,
    so that processes left over from an earlier attempt cannot join it.

    Raises UsageError for options that exclude each other, and PreflightError if no address of the
    master can be reached by all nodes or the master has no free port.
    """
    notes: list[str] = []
    if one_machine:
        hosts, shared = with_own_gpus(hosts, facts, spec.backend, spec.env, spec.local)
        notes += [shared] if shared else []
    master = hosts[0]
    address = master_address(master, hosts, facts, rendezvous.interface)
    port = _master_port(master, rendezvous, spec, facts, attempt)
    rdzv_backend, rdzv_id, endpoint = _rendezvous(
        rendezvous, spec, f"{_bracketed(address)}:{port}", run_id, attempt
    )
    _refuse_contradictions(spec, rdzv_backend, endpoint, len(hosts))
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
            env={**host.variables, **spec.env},
            hidden=frozenset(host.passed),
        )
        made = replace(made, container=_container(host, known, made, run_id, attempt))
        if made.interface is None and len(hosts) > 1:
            notes.append(f"{host.name}: no interface towards {address} found; torch chooses one by itself")
        nodes.append(made)
        first_rank += made.nproc_per_node
    notes += _notes_on_variables(hosts, nodes, facts, spec)
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


def _container(host: Host, known: Facts, node: NodePlan, run_id: str, attempt: int) -> ContainerPlan | None:
    """Return the container of a node's launcher, with the folders of the run; None if the host has none."""
    if host.container is None:
        return None
    logs, data = f"{node.work}.logs/attempt{attempt}", f"{node.workdir}/data"
    own = (
        Mount(node.work, node.work, ours=True),
        # In the attempt's folder, a link leads there.
        Mount(logs, f"{node.attempt_dir}/logs", ours=True),
        Mount(data, data, ours=True),
    )
    name = f"orch-{run_id}-{attempt}-{host.name}"
    return container_plan(
        host.container,
        known.engine or EngineFacts(engine=None),
        name,
        login=known.user,
        workdir=node.workdir,
        home=known.home,
        gpus=gpus_of(host, known) > 0,
        own=own,
    )


def _master_port(
    master: Host, rendezvous: Rendezvous, spec: RunSpec, facts: Mapping[str, Facts], attempt: int
) -> int:
    fixed = spec.port or rendezvous.port
    port = fixed if fixed and attempt == 1 else facts[master.name].free_port
    if port is None:
        raise PreflightError(f"no TCP port from {DEFAULT_PORT} on is free", remedy="pass --port", host=master.name)
    return port


def _notes_on_variables(
    hosts: Sequence[Host], nodes: Sequence[NodePlan], facts: Mapping[str, Facts], spec: RunSpec
) -> Iterator[str]:
    """Yield a line for what ``pass_env`` does not find, and for a local setting that orch knows better."""
    names = dict.fromkeys(name for host in hosts for name in host.not_set)
    if names:
        yield f"pass_env: {', '.join(names)}: not set on this machine"
    found = {node.interface for node in nodes}
    for name in INTERFACES:
        value = spec.local.get(name)
        if value is not None and None not in found and found != {value.lstrip("=")}:
            yield f"{name}={value} stays here: orch found each host's interface; to insist: --env {name}={value}"
    for host, node in zip(hosts, nodes, strict=True):
        given = visible_gpus(node.env) is None
        local = _local_gpus(host, facts[host.name], spec) if given else None
        if local is not None and len(local) < node.nproc_per_node:
            yield (
                f"{host.name}: {node.nproc_per_node} processes share the {counted(len(local), 'GPU')} "
                "that this machine's variables leave visible; --no-env shows all"
            )


def _refuse_contradictions(spec: RunSpec, rdzv_backend: str, endpoint: str, hosts: int) -> None:
    """Raise UsageError for options that exclude each other or do not fit the number of hosts."""
    meets = endpoint.rpartition(":")[0] or endpoint
    if rdzv_backend == "c10d" and hosts > 1 and (meets in ("localhost", "[::1]") or meets.startswith("127.")):
        raise UsageError(
            f"the rendezvous endpoint {endpoint} is a different place on each of {hosts} hosts",
            remedy="leave it out: orch lets them meet at the first host; for one host: --single-node",
        )
    if spec.nnodes is not None and not spec.nnodes[0] <= hosts <= spec.nnodes[1]:
        low, high = spec.nnodes
        remedy = f"choose with --nodes {high}" if hosts > high else "add hosts, or lower MIN"
        raise UsageError(
            f"--nnodes {low}:{high}: there {'is' if hosts == 1 else 'are'} {counted(hosts, 'host')}", remedy=remedy
        )


def nproc_per_node(host: Host, facts: Facts, spec: RunSpec) -> int:
    """Return the number of processes on a node: the user's, the inventory's, one per GPU, or one.

    Raises PreflightError if the user asks for one per GPU or core and the node has none or tells none, and
    UsageError for a local setting that names GPUs the node has not.
    """
    visible = visible_gpus({**host.variables, **spec.env})
    local = _local_gpus(host, facts, spec) if visible is None else None
    if spec.nproc:
        return spec.nproc
    if spec.nproc_of == "cpu":
        if facts.parts.memory is None:
            remedy = "give a number, or leave out --offline"
            raise PreflightError("the number of its cores is unknown", remedy=remedy, host=host.name)
        return facts.parts.memory.cores
    if spec.nproc_of == "gpu":
        found = visible if visible is not None else local
        count = gpus_of(host, facts) if found is None else len(found)
        if not count:
            remedy = "use --nproc auto, or give a number"
            raise PreflightError("--nproc gpu: no GPU is visible", remedy=remedy, host=host.name)
        return count
    return nproc_for(host, facts, spec.env) if host.nproc or local is None else len(local) or 1


def nproc_for(host: Host, facts: Facts, env: Mapping[str, str] | None = None) -> int:
    """Return the number of processes on a node if the user gives none; ``env`` overrides the host's variables."""
    visible = visible_gpus({**host.variables, **(env or {})})
    if visible is not None and not host.nproc:
        return len(visible) or 1
    return host.nproc or gpus_of(host, facts) or 1


def gpus_of(host: Host, facts: Facts) -> int:
    """Return the number of GPUs on a node: the inventory's, else what the node reports."""
    return facts.gpus if host.gpus is None else host.gpus


def _local_gpus(host: Host, facts: Facts, spec: RunSpec) -> list[str] | None:
    """Return the GPUs of a node that a local setting leaves visible; None without such a setting or without GPUs.

    Raises UsageError if the setting names GPUs that the node has not.
    """
    gpus, visible = gpus_of(host, facts), visible_gpus(spec.local)
    if not gpus or visible is None:
        return None
    beyond = [each for each in visible if each.isdigit() and int(each) >= gpus]
    if beyond:
        name = next(name for name in VISIBLE if name in spec.local)
        raise UsageError(
            f"{name}={spec.local[name]}, exported on this machine, names GPU {beyond[0]}; "
            f"{host.name} has {gpus}, counted from 0",
            remedy=f"unset {name}, set it under env: of the host, or use --no-env",
        )
    return visible


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
        engine=None if host.container is None else EngineFacts(engine=None, uid=1000, gid=1000),
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
    return "nccl" if all(_shows_gpus(host, facts[host.name], spec) for host in hosts) else "gloo"


def _shows_gpus(host: Host, facts: Facts, spec: RunSpec) -> bool:
    """Return whether the node has GPUs and its ranks see any of them."""
    return bool(facts.gpus) and visible_gpus({**spec.local, **host.variables, **spec.env}) != []


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
    if host.container is not None:
        return facts.path
    if not host.python or not folder or facts.path.split(":")[0] == folder:
        return facts.path
    return f"{folder}:{facts.path}" if facts.path else folder


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
