"""Print a LaunchPlan as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from orchestrator.core.launch.command import commands
from orchestrator.core.launch.plan import LaunchPlan
from orchestrator.core.text.secret import masked_words, redacted


def as_dict(plan: LaunchPlan) -> dict[str, Any]:
    """Return the plan as a value for JSON, with secrets masked."""
    shown = {"env": redacted(plan.spec.env), "local": redacted(plan.spec.local)}
    settings = {**asdict(plan.spec), **shown, "args": masked_words(plan.spec.args)}
    return {
        "run_id": plan.run_id,
        "attempt": plan.attempt,
        "spec": settings,
        "backend": plan.backend,
        "nnodes": plan.nnodes if plan.spec.nnodes else len(plan.nodes),
        "world_size": plan.world_size,
        "master_addr": plan.master_addr,
        "master_port": plan.master_port,
        "rdzv_backend": plan.rdzv_backend,
        "rdzv_id": plan.rdzv_id,
        "rdzv_endpoint": plan.rdzv_endpoint,
        "notes": list(plan.notes),
        "nodes": [
            {
                "node": node.node,
                "node_rank": node.node_rank,
                "nproc_per_node": node.nproc_per_node,
                "first_rank": node.first_rank,
                "interface": node.interface,
                "address": node.address,
                "cwd": each.cwd,
                "argv": masked_words(each.argv),
                "env": each.shown_env,
                "files": dict(each.files),
            }
            for node, each in zip(plan.nodes, commands(plan), strict=True)
        ],
    }


def as_json(plan: LaunchPlan) -> str:
    """Return ``as_dict(plan)`` as JSON text."""
    return json.dumps(as_dict(plan), indent=2) + "\n"
