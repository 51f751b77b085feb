"""Print a LaunchPlan as POSIX shell."""

from __future__ import annotations

import shlex

from orchestrator.core.launch.plan import LaunchPlan
from orchestrator.core.launch.torchrun import commands
from orchestrator.core.text.secret import masked_words


def as_sh(plan: LaunchPlan) -> str:
    """Return the plan as POSIX shell, one command per node.

    Secret variables are taken from the environment; secrets in arguments are masked.
    """
    blocks = []
    for each in commands(plan):
        lines = [f"# {each.node} (node_rank {each.node_rank})", f"cd {_sh_path(each.cwd)} && env \\"]
        for name, value in each.shown_env.items():
            secret = value != each.env[name]
            lines.append(f'  {name}="${{{name}}}" \\' if secret else f"  {name}={_sh_path(value)} \\")
        lines.append("  " + " ".join(_sh_path(word) for word in masked_words(each.argv)))
        for path, text in each.files.items():
            folder = _sh_path(path.rpartition("/")[0])
            lines.insert(1, f"mkdir -p {folder} && printf %s {shlex.quote(text)} > {_sh_path(path)}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _sh_path(word: str) -> str:
    """Quote a word; a leading ``~/``, as in a plan made without asking the nodes, is left to the shell."""
    head, tilde, rest = word.partition("~/")
    if tilde and (head == "" or head.endswith("=")):
        return f'{shlex.quote(head) if head else ""}"$HOME"/{shlex.quote(rest)}'
    return shlex.quote(word)
