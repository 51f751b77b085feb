"""Print a LaunchPlan as PowerShell."""

from __future__ import annotations

from orchestrator.core.launch.plan import LaunchPlan
from orchestrator.core.launch.torchrun import commands
from orchestrator.core.text.secret import masked_words


def as_ps1(plan: LaunchPlan) -> str:
    """Return the plan as PowerShell, one command per node, without secret variables; other secrets are masked."""
    blocks = []
    for each in commands(plan):
        lines = [f"# {each.node} (node_rank {each.node_rank})", f"Set-Location -LiteralPath {_ps1(each.cwd)}"]
        for name, value in each.shown_env.items():
            if value == each.env[name]:
                lines.append(f"$env:{name} = {_ps1(value)}")
        for path, text in each.files.items():
            lines.append(f"New-Item -Force -ItemType File -Path {_ps1(path)} -Value {_ps1(text)} | Out-Null")
        lines.append("& " + " ".join(_ps1(word) for word in masked_words(each.argv)))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _ps1(word: str) -> str:
    """Quote a word as a PowerShell literal: single quotes are doubled, no other character is special."""
    return "'" + word.replace("'", "''") + "'"
