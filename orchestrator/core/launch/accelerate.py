"""Turn a LaunchPlan into the arguments, config and variables of Hugging Face's ``accelerate launch``.

accelerate's GPU launcher is torchrun's own (accelerate/commands/launch.py, multi_gpu_launcher). It is also used on
nodes without GPUs, because accelerate's CPU launcher needs mpirun.
"""

from __future__ import annotations

from orchestrator.core.launch.plan import LaunchPlan, NodePlan

MIXED_PRECISIONS = ("no", "fp16", "bf16")


def launcher_argv(plan: LaunchPlan, node: NodePlan) -> list[str]:
    """Return the command line up to the script or ``-m module``."""
    return [
        node.python,
        "-m",
        "accelerate.commands.launch",
        f"--config_file={config_path(node)}",
        # Also an option, because accelerate does not read this setting from its config file.
        "--same_network",
        f"--log_dir={node.attempt_dir}/logs",
        *(["--tee=3"] if plan.tee else []),
    ]


def config_path(node: NodePlan) -> str:
    """Return the path of a node's config file."""
    return f"{node.attempt_dir}/accelerate.yaml"


def config(plan: LaunchPlan, node: NodePlan) -> str:
    """Return a node's config as YAML. accelerate starts ``num_processes // num_machines`` processes there."""
    nnodes = len(plan.nodes)
    entries = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU",
        "num_machines": nnodes,
        "machine_rank": node.node_rank,
        "main_process_ip": f"'{plan.master_addr}'",
        "main_process_port": plan.master_port,
        "num_processes": node.nproc_per_node * nnodes,
        "mixed_precision": f"'{plan.spec.mixed_precision}'",
        "rdzv_backend": "static",
        "same_network": "true",
        "use_cpu": "false",
    }
    return "".join(f"{name}: {value}\n" for name, value in entries.items())


def variables(plan: LaunchPlan) -> dict[str, str]:
    """Return accelerate's variables. ``PET_REDIRECTS`` is torchrun's: accelerate's options can only tee."""
    files = {} if plan.tee else {"PET_REDIRECTS": "3"}
    return files | ({"ACCELERATE_USE_CPU": "true"} if plan.backend == "gloo" else {})
