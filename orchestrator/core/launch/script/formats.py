"""The formats of a printed plan: those that are one script a node, and those that are one text."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orchestrator.core.launch.plan import LaunchPlan
from orchestrator.core.launch.script.json import as_json
from orchestrator.core.launch.script.ps1 import as_ps1, ps1_scripts
from orchestrator.core.launch.script.sbatch import as_sbatch
from orchestrator.core.launch.script.sh import as_sh, sh_scripts

# A script's text by its file's name, in node_rank order.
SCRIPTS: Mapping[str, Callable[[LaunchPlan], Mapping[str, str]]] = {"sh": sh_scripts, "ps1": ps1_scripts}
TEXTS: Mapping[str, Callable[[LaunchPlan], str]] = {
    "sh": as_sh,
    "ps1": as_ps1,
    "json": as_json,
    "sbatch": as_sbatch,
}
