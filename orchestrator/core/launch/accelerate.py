"""LaunchPlan -> what Hugging Face's ``accelerate launch`` is given on each node, which starts torchrun in turn.

Its GPU launcher is torchrun's own (accelerate/commands/launch.py, multi_gpu_launcher), and is used where there are
no GPUs, too: the other one, for CPUs, wants mpirun.
"""

from __future__ import annotations

from orchestrator.core.launch.plan import LaunchPlan, NodePlan

MIXED_PRECISIONS = ("no", "fp16", "bf16")


def words(plan: LaunchPlan, node: NodePlan) -> list[str]:
    """The launcher's own words, before the script or ``-m module``."""
    return [
        node.python,
        "-m",
        "accelerate.commands.launch",
        f"--config_file={config_path(node)}",
        # As a word, too: it does not read this one from its config.
        "--same_network",
        f"--log_dir={node.attempt_dir}/logs",
    ]


def config_path(node: NodePlan) -> str:
    """Where a node's config lies."""
    return f"{node.attempt_dir}/accelerate.yaml"


def config(plan: LaunchPlan, node: NodePlan) -> str:
    """A node's config, in YAML. It starts ``num_processes // num_machines`` processes there."""
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


def environment(plan: LaunchPlan) -> dict[str, str]:
    """Variables of its own: output goes to files, which it has no word for but torchrun has a variable."""
    return {"PET_REDIRECTS": "3"} | ({"ACCELERATE_USE_CPU": "true"} if plan.backend == "gloo" else {})
