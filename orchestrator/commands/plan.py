"""``orch plan``: show the exact command of every node, or write it as scripts, without running it."""

from __future__ import annotations

from pathlib import Path

from orchestrator.core.inventory.target import Target
from orchestrator.core.launch.script.formats import SCRIPTS
from orchestrator.errors import UsageError
from orchestrator.local.plan_scripts import script_folder, write_scripts
from orchestrator.operations.run.options import RunOptions
from orchestrator.operations.run.previewing import preview, refuse_changed_code
from orchestrator.ui.display import Display
from orchestrator.ui.plan import show_plan, show_scripts


def plan(
    target: Target, options: RunOptions, form: str, output: Path | None, display: Display, *, offline: bool
) -> int:
    """Print the plan as ``form`` (table, sh, ps1, sbatch, json), or write its scripts to ``output``, and return 0.

    With ``offline``, connect to no node. Raises OrchError.
    """
    if output is None:
        show_plan(display, preview(target, options, display, offline=offline), form)
        return 0
    if form not in SCRIPTS:
        raise UsageError(f"--output: --format {form} is one text", remedy=f"--format {' or '.join(SCRIPTS)}")
    with script_folder(output) as folder:
        made = preview(target, options, display, offline=offline)
        files = write_scripts(folder, SCRIPTS[form](made))
        refuse_changed_code(made, options, files)
    show_scripts(display, made, files, options.source.root)
    return 0
