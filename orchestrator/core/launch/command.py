"""The command of each node of a LaunchPlan: argv, variables and files of its launcher, and its container."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.core.launch.container.engines import contained, in_container
from orchestrator.core.launch.container.plan import ContainerPlan
from orchestrator.core.launch.launchers import LAUNCHERS
from orchestrator.core.launch.plan import LaunchPlan, NodePlan
from orchestrator.core.text.secret import redacted
from orchestrator.protocol.container.process import Contained

OUTPUT_FOLDER = "orch-output"


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
    launcher = LAUNCHERS[plan.spec.launcher]
    workload = plan.spec.workload
    target = ["-m", workload.target] if workload.kind == "module" else [workload.target]
    cwd = node.work if workload.cwd == "." else f"{node.work}/{workload.cwd}"
    argv = (*launcher.argv(plan, node), *target, *plan.spec.args)
    files = launcher.files(plan, node)
    made = NodeCommand(node.node, node.node_rank, cwd, argv, _environment(plan, node), files, node.hidden)
    if launcher.starter is not None:
        return replace(made, argv=tuple(launcher.starter(plan, node)), inside=made)
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
    env |= LAUNCHERS[plan.spec.launcher].variables(plan, node)
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
