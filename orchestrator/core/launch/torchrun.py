"""torchrun's command line."""

from __future__ import annotations

from orchestrator.core.launch.plan import LaunchPlan, NodePlan

# How long the nodes of an elastic run wait for more nodes once enough have joined, in seconds.
LAST_CALL = 15


def launcher_argv(plan: LaunchPlan, node: NodePlan) -> list[str]:
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
    conf = rendezvous_conf(plan, node)
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


def rendezvous_conf(plan: LaunchPlan, node: NodePlan) -> list[str]:
    """Return the further settings of the rendezvous, ``KEY=VALUE``."""
    conf = []
    if plan.rdzv_backend == "c10d" and plan.spec.rdzv_endpoint is None:
        # Otherwise torchrun guesses from the host name whether this node opens the store.
        conf.append(f"is_host={'true' if node.node_rank == 0 else 'false'}")
    if plan.spec.nnodes and "last_call_timeout" not in plan.spec.rdzv_conf:
        conf.append(f"last_call_timeout={LAST_CALL}")
    return conf + [f"{name}={value}" for name, value in plan.spec.rdzv_conf.items()]
