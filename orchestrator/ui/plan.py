"""Shows a plan, and a run's settings before it starts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from orchestrator.core.launch.command import commands
from orchestrator.core.launch.container.plan import ContainerPlan
from orchestrator.core.launch.plan import LaunchPlan
from orchestrator.core.launch.script.formats import TEXTS
from orchestrator.core.text.secret import masked_words, redacted
from orchestrator.ui.console import continued
from orchestrator.ui.display import Display


def show_settings(display: Display, plan: LaunchPlan, environments: Sequence[str]) -> None:
    """Show a run's settings and the command that will run on each node."""
    display.table(settings_grid(plan, environments), display.err)
    display.table(plan_table(plan), display.err)
    for note in plan.notes:
        display.note(f"note: {note}")
    head, words = "on each node (orch plan shows the full command):", short_command(plan)
    if display.err.is_terminal:
        display.err.print(Text(f"{head}\n{continued(words, display.err.width, '  ')}", style="dim"))
    else:
        display.err.print(Text(" ".join([head, *words]), style="dim"))


def show_plan(display: Display, plan: LaunchPlan, form: str) -> None:
    """Show a plan on stdout. ``form`` is ``table``, ``sh``, ``ps1`` or ``json``."""
    if form == "table":
        display.table(plan_table(plan))
        for each in commands(plan):
            display.out.print(Text(f"\n{each.node}: cd {each.cwd}", style="bold"))
            for name, value in each.shown_env.items():
                display.out.print(Text(f"  {name}={value}", style="dim"))
            display.out.print(Text(f"  {shlex.join(masked_words(each.argv))}"))
            for path, text in each.files.items():
                display.out.print(Text(f"  {path}:", style="dim"))
                display.out.print(
                    Text("".join(f"    {line}\n" for line in text.splitlines()), style="dim"), end=""
                )
        for note in plan.notes:
            display.note(f"note: {note}")
    else:
        # Unchanged: a control character in a user's argument is part of the command.
        display.write_bytes(TEXTS[form](plan).encode("utf-8", "surrogateescape"))


def show_scripts(display: Display, plan: LaunchPlan, files: Sequence[Path], root: Path) -> None:
    """Show on stdout which file holds which node's script, and what to do with it."""
    for node, file in zip(plan.nodes, files, strict=True):
        display.write(f"{file}  {node.node}\n")
    for note in plan.notes:
        display.note(f"note: {note}")
    if files[0].suffix == ".ps1":
        display.note("next: copy the code and each node's script to its folder there, and start the scripts")
    else:
        where = shlex.quote(str(root))
        display.note(f"next: orch sync --project {where}, copy each node's script there, and start all with sh")


def plan_table(plan: LaunchPlan) -> Table:
    """Return a table of a plan's nodes, in node_rank order."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("node_rank", "node", "nproc_per_node", "ranks", "address", "interface"):
        table.add_column(heading)
    for node in plan.nodes:
        first = node.first_rank
        last = None if first is None else first + node.nproc_per_node - 1
        ranks = "set by torchrun" if first is None else str(first) if first == last else f"{first}-{last}"
        values = [str(node.node_rank), node.node, str(node.nproc_per_node), ranks]
        table.add_row(*values, node.address or "-", node.interface or "chosen by torch")
    return table


def settings_grid(plan: LaunchPlan, environments: Sequence[str]) -> Table:
    """Return a grid of a run's settings, one name and value a row."""
    spec = plan.spec
    head = [
        ("run", plan.run_id),
        ("workload", " ".join([spec.workload.name, *masked_words(spec.args)])),
        ("backend", plan.backend),
        ("nnodes", plan.nnodes),
        ("world_size", str(plan.world_size)),
        ("master_addr", plan.master_addr),
        ("master_port", str(plan.master_port)),
        ("rendezvous", _rendezvous(plan)),
        ("environment", "; ".join(environments)),
    ]
    if spec.env:
        head.append(("variables", _assignments(spec.env)))
    if containers := dict.fromkeys(_container(node.container) for node in plan.nodes if node.container):
        head.append(("container", "; ".join(containers)))
    launched = [each.inside or each for each in commands(plan)]
    if local := {
        n: value for n, value in spec.local.items() if any(each.env.get(n) == value for each in launched)
    }:
        head.append(("local settings", f"{_assignments(local)} (--no-env leaves them here)"))
    if hidden := sorted({name for node in plan.nodes for name in node.hidden}):
        head.append(("pass_env", " ".join(hidden)))
    grid = Table.grid(padding=(0, 2))
    for name, value in head:
        grid.add_row(Text(name, style="dim"), Text(value, overflow="fold"))
    return grid


def _container(container: ContainerPlan) -> str:
    return f"{container.image}, started by {container.engine}"


def _assignments(variables: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in redacted(variables).items())


def _rendezvous(plan: LaunchPlan) -> str:
    if plan.rdzv_backend == "static":
        return "static"
    return f"{plan.rdzv_backend}, endpoint {plan.rdzv_endpoint}, id {plan.rdzv_id}"


def short_command(plan: LaunchPlan) -> list[str]:
    """Return the words of a node's command, quoted for a shell.

    Node-specific values and the log options that orch adds are left out. Of a command that starts a container, it
    is the command that runs there.
    """
    shown = []
    first = commands(plan)[0]
    for word in masked_words((first.inside or first).argv):
        if word.startswith("--node_rank="):
            word = "--node_rank=<node_rank>"
        if not word.startswith(("--log_dir", "--redirects")):
            shown.append(word if word.startswith("--node_rank") else shlex.quote(word))
    return shown
