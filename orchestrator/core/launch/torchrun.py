"""Turn a LaunchPlan into the argv and variables of each node's launcher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.core.launch import accelerate, mpirun
from orchestrator.core.launch.container.engines import contained, in_container
from orchestrator.core.launch.container.plan import ContainerPlan
from orchestrator.core.launch.plan import LaunchPlan, NodePlan
from orchestrator.core.text.secret import redacted
from orchestrator.protocol.container.process import Contained

OUTPUT_FOLDER = "orch-output"
# How long the nodes of an elastic run wait for more nodes once enough have joined, in seconds.
LAST_CALL = 15


@dataclass(frozen=True)
class NodeCommand:
    """Exactly what runs on one node. ``files`` maps paths to texts that are written before the command starts.

    ``container`` is what the node must know of the container that ``argv`` starts; None if it starts none.
    ``inside`` is the command that runs in the container or, for each rank, below mpirun; None for neither.
    ``hidden`` names the variables whose values are never shown, whatever their names.
    """

    node: str
    node_rank: int
    cwd: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    files: Mapping[str, str] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    container: Contained | None = None
    inside: NodeCommand | None = None

    @property
    def shown_env(self) -> dict[str, str]:
        """The variables with secret and hidden values masked."""
        return redacted(self.env, self.hidden)


def commands(plan: LaunchPlan) -> tuple[NodeCommand, ...]:
    """Return the command of every node, in node_rank order."""
    return tuple(command(plan, node) for node in plan.nodes)


def command(plan: LaunchPlan, node: NodePlan) -> NodeCommand:
    """Return one node's command: the launcher with the workload."""
    launcher, files = _torchrun(plan, node), {}
    if plan.spec.launcher == "accelerate":
        launcher = accelerate.launcher_argv(plan, node, _rendezvous_conf(plan, node))
        files = {accelerate.config_path(node): accelerate.config(plan, node)}
    if plan.spec.launcher == "mpirun":
        # What mpirun starts on every node starts this, as torchrun does: unbuffered.
        launcher = [node.python, "-u"]
    workload = plan.spec.workload
    target = ["-m", workload.target] if workload.kind == "module" else [workload.target]
    cwd = node.work if workload.cwd == "." else f"{node.work}/{workload.cwd}"
    argv = (*launcher, *target, *plan.spec.args)
    made = NodeCommand(node.node, node.node_rank, cwd, argv, _environment(plan, node), files, node.hidden)
    if plan.spec.launcher == "mpirun":
        return replace(made, argv=tuple(mpirun.launcher_argv(plan, node)), inside=made)
    return made if node.container is None else _contained(made, node, node.container)


def _contained(made: NodeCommand, node: NodePlan, container: ContainerPlan) -> NodeCommand:
    """Return the command that runs ``made`` in a container. PATH there is the image's, unless the user sets it."""
    env = dict(made.env)
    if "PATH" not in node.env:
        env.pop("PATH", None)
    inside = in_container(
        container, made.cwd, made.argv, env, path=node.path, files=tuple(made.files), hidden=made.hidden
    )
    told = contained(container, inside)
    return replace(made, argv=inside.argv, env=inside.env, hidden=inside.hidden, container=told, inside=made)


def _torchrun(plan: LaunchPlan, node: NodePlan) -> list[str]:
    """Return torchrun's command line up to the workload.

    Only elastic runs let torchrun restart ranks: static agents never learn of a peer's restart.
    """
    return [
        node.python,
        "-m",
        "torch.distributed.run",
        f"--nnodes={plan.nnodes}",
        f"--nproc_per_node={node.nproc_per_node}",
        f"--node_rank={node.node_rank}",
        *_rendezvous_options(plan, node),
        f"--max_restarts={plan.spec.restarts}",
        f"--log_dir={node.attempt_dir}/logs",
        "--tee=3" if plan.tee else "--redirects=3",
    ]


def _rendezvous_options(plan: LaunchPlan, node: NodePlan) -> list[str]:
    conf = _rendezvous_conf(plan, node)
    more = [f"--rdzv_conf={','.join(conf)}"] if conf else []
    if plan.rdzv_backend == "static":
        return [f"--master_addr={plan.master_addr}", f"--master_port={plan.master_port}", *more]
    return [
        f"--rdzv_backend={plan.rdzv_backend}",
        f"--rdzv_endpoint={plan.rdzv_endpoint}",
        f"--rdzv_id={plan.rdzv_id}",
        *more,
        *([f"--local_addr={node.address}"] if node.address else []),
    ]


def _rendezvous_conf(plan: LaunchPlan, node: NodePlan) -> list[str]:
    """Return the further settings of the rendezvous, ``KEY=VALUE``."""
    conf = []
    if plan.rdzv_backend == "c10d" and plan.spec.rdzv_endpoint is None:
        # Otherwise torchrun guesses from the host name whether this node opens the store.
        conf.append(f"is_host={'true' if node.node_rank == 0 else 'false'}")
    if plan.spec.nnodes and "last_call_timeout" not in plan.spec.rdzv_conf:
        conf.append(f"last_call_timeout={LAST_CALL}")
    return conf + [f"{name}={value}" for name, value in plan.spec.rdzv_conf.items()]


def _environment(plan: LaunchPlan, node: NodePlan) -> dict[str, str]:
    env = {"PYTHONUNBUFFERED": "1", **plan.spec.local}
    if node.path:
        env["PATH"] = node.path
    if node.interface:
        env["GLOO_SOCKET_IFNAME"] = node.interface
        # "=" makes NCCL match the whole name instead of a prefix.
        env["NCCL_SOCKET_IFNAME"] = f"={node.interface}"
    if plan.spec.debug:
        env |= {"TORCH_DISTRIBUTED_DEBUG": "DETAIL", "NCCL_DEBUG": "INFO", "TORCH_CPP_LOG_LEVEL": "INFO"}
    if plan.spec.launcher == "accelerate":
        env |= accelerate.variables(plan, node)
    if plan.spec.launcher == "mpirun":
        env |= mpirun.variables(plan)
    if plan.spec.nnodes:
        # In torchrun's own store, restarted ranks would find the addresses of earlier ones: only the number of
        # restarts tells them apart, and each agent counts only its own (torch.distributed.rendezvous).
        env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    env |= node.env
    env |= _place(plan, node)
    env |= {
        "ORCH_RUN_ID": plan.run_id,
        "ORCH_ATTEMPT": str(plan.attempt),
        "ORCH_NODE": node.node,
        "ORCH_BACKEND": plan.backend,
        "ORCH_DATA": f"{node.workdir}/data",
        "ORCH_OUTPUT_DIR": f"{node.work}/{OUTPUT_FOLDER}",
    }
    return env


def _place(plan: LaunchPlan, node: NodePlan) -> dict[str, str]:
    """Return the node's place in the run, for scripts that read it; torchrun adds RANK, MASTER_ADDR and the rest.

    Where torchrun assigns node ranks (c10d) or changes the number of nodes (elastic), only its own variables,
    GROUP_RANK and GROUP_WORLD_SIZE, are right.
    """
    place = {} if plan.spec.nnodes else {"NNODES": str(len(plan.nodes))}
    if plan.rdzv_backend == "static":
        place["NODE_RANK"] = str(node.node_rank)
    return {**place, "NPROC_PER_NODE": str(node.nproc_per_node)}
