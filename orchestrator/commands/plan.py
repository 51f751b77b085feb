"""``orch plan``: show the exact command of every node without running it."""

from __future__ import annotations

from orchestrator.core.inventory.target import Target
from orchestrator.operations.run.options import RunOptions
from orchestrator.operations.run.previewing import preview
from orchestrator.ui.display import Display
from orchestrator.ui.plan import show_plan


def plan(target: Target, options: RunOptions, form: str, display: Display, *, offline: bool) -> int:
    """Print the plan as ``form`` (table, sh, ps1, json), and return 0. With ``offline``, connect to no node."""
    show_plan(display, preview(target, options, display, offline=offline), form)
    return 0
