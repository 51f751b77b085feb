"""Turn a LaunchPlan into the arguments, config and variables of Hugging Face's ``accelerate launch``.

accelerate's GPU launcher is torchrun's own (accelerate/commands/launch.py, multi_gpu_launcher). It is also used on
nodes without GPUs, because accelerate's CPU launcher needs mpirun. Options of torchrun that accelerate lacks are
given as torchrun's variables, ``PET_`` and the option's name.
"""

from __future__ import annotations

from orchestrator.core.launch.plan import LaunchPlan, NodePlan
from orchestrator.core.launch.torchrun import rendezvous_conf

MIXED_PRECISIONS = ("no", "fp16", "bf16")


def launcher_argv(plan: LaunchPlan, node: NodePlan) -> list[str]:
    """Return the command line up to the script or ``-m module``."""
    conf = rendezvous_conf(plan, node)
    # These are options, because accelerate does not read them from its config file. Without --same_network it
    # passes an endpoint to torchrun, which the static rendezvous does not take.
    meeting = ["--same_network"] if plan.rdzv_backend == "static" else [f"--rdzv_backend={plan.rdzv_backend}"]
    return [
        node.python,
        "-m",
        "accelerate.commands.launch",
        f"--config_file={config_path(node)}",
        *meeting,
        *([f"--rdzv_conf={','.join(conf)}"] if conf else []),
        *([f"--max_restarts={plan.spec.restarts}"] if plan.spec.restarts else []),
        f"--log_dir={node.attempt_dir}/logs",
        *(["--tee=3"] if plan.tee else []),
    ]


def files(plan: LaunchPlan, node: NodePlan) -> dict[str, str]:
    """Return the files that accelerate reads, path to text."""
    return {config_path(node): config(plan, node)}


def config_path(node: NodePlan) -> str:
    """Return the path of a node's config file."""
    return f"{node.attempt_dir}/accelerate.yaml"


def config(plan: LaunchPlan, node: NodePlan) -> str:
    """Return a node's config as YAML. accelerate starts ``num_processes // num_machines`` processes there.

    With c10d, accelerate is told of one machine, because it knows no range of machines, and torchrun's variables
    say the rest. Port 0 keeps it from looking whether a port is in use, and from starting that machine alone.
    """
    static = plan.rdzv_backend == "static"
    nnodes = len(plan.nodes) if static else 1
    entries = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU",
        "num_machines": nnodes,
        "machine_rank": node.node_rank if static else 0,
        "main_process_ip": f"'{plan.master_addr}'",
        "main_process_port": plan.master_port if static else 0,
        "num_processes": node.nproc_per_node * nnodes,
        "mixed_precision": f"'{plan.spec.mixed_precision}'",
        "rdzv_backend": plan.rdzv_backend,
        "same_network": "true" if static else "false",
        "use_cpu": "false",
    }
    return "".join(f"{name}: {value}\n" for name, value in entries.items())


def variables(plan: LaunchPlan, node: NodePlan) -> dict[str, str]:
    """Return the variables of accelerate, and of torchrun for what accelerate has no option for."""
    # Of the logs, accelerate's options can only tee.
    found = {} if plan.tee else {"PET_REDIRECTS": "3"}
    if plan.rdzv_backend != "static":
        found |= {
            "PET_NNODES": plan.nnodes,
            "PET_RDZV_ENDPOINT": plan.rdzv_endpoint,
            "PET_RDZV_ID": plan.rdzv_id,
        }
        found |= {"PET_LOCAL_ADDR": node.address} if node.address else {}
    return found | ({"ACCELERATE_USE_CPU": "true"} if plan.backend == "gloo" else {})
