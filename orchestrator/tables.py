"""What display shows as tables: a plan, its settings, runs, how nodes ended, what a machine is."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from orchestrator.core.events import RunResult
from orchestrator.core.findings import Examined
from orchestrator.core.hostrange import folded
from orchestrator.core.node_checks import age
from orchestrator.core.plan import LaunchPlan
from orchestrator.core.runs import Run
from orchestrator.core.secret import masked_words, redacted
from orchestrator.core.torchrun import commands

STATE_STYLES = {
    "ok": "green",
    "running": "green",
    "reconnecting": "yellow",
    "stopping": "yellow",
    "stopped": "yellow",
    "failed": "red",
    "lost": "red",
    "rebooted": "red",
    "left over": "red",
    "not answering": "red",
}


def plan_table(plan: LaunchPlan) -> Table:
    """The nodes of a plan, in node_rank order."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("node_rank", "node", "nproc_per_node", "ranks", "address", "interface"):
        table.add_column(heading)
    for node in plan.nodes:
        first = node.first_rank
        last = None if first is None else first + node.nproc_per_node - 1
        ranks = "by torchrun" if first is None else str(first) if first == last else f"{first}-{last}"
        values = [str(node.node_rank), node.node, str(node.nproc_per_node), ranks]
        table.add_row(*values, node.address or "-", node.interface or "chosen by torch")
    return table


def _rendezvous(plan: LaunchPlan) -> str:
    if plan.rdzv_backend == "static":
        return "static"
    return f"{plan.rdzv_backend}, endpoint {plan.rdzv_endpoint}, id {plan.rdzv_id}"


def short_command(plan: LaunchPlan) -> str:
    """A node's command without what differs from node to node and what only orch cares for."""
    shown = []
    for word in masked_words(commands(plan)[0].argv):
        if word.startswith("--node_rank="):
            word = "--node_rank=<node_rank>"
        if not word.startswith(("--log_dir", "--redirects")):
            shown.append(word if word.startswith("--node_rank") else shlex.quote(word))
    return " ".join(shown)


def settings_grid(plan: LaunchPlan, environments: Sequence[str]) -> Table:
    """A run's settings, name and value a row."""
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
        head.append(("variables", " ".join(f"{name}={value}" for name, value in redacted(spec.env).items())))
    grid = Table.grid(padding=(0, 2))
    for name, value in head:
        grid.add_row(Text(name, style="dim"), Text(value, overflow="fold"))
    return grid


def runs_table(runs: Sequence[Run]) -> Table:
    """Runs, one a row; the last columns give way where there is no room."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    rows = [_run_cells(run) for run in runs]
    for position, heading in enumerate(
        ("run", "workload", "age", "nodes", "ranks", "state", "owner", "last line")
    ):
        # The last two give way where there is no room.
        width = max(len(heading), *(len(row[position]) for row in rows)) if position < 6 else None
        table.add_column(heading, no_wrap=True, overflow="ellipsis", min_width=width)
    for run, row in zip(runs, rows, strict=True):
        row[5] = Text(row[5].plain, style=STATE_STYLES.get(run.state, ""))
        table.add_row(*row)
    return table


def nodes_table(result: RunResult) -> Table:
    """How each node of a run ended."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("node", "result", "exit", "duration", "outputs"):
        table.add_column(heading)
    for node in result.nodes.values():
        style = STATE_STYLES.get(node.state, "")
        code = "-" if node.exit_code is None else str(node.exit_code)
        code = f"signal {node.signal}" if node.signal else code
        took = f"{node.duration:.1f} s" if node.duration is not None else "-"
        table.add_row(node.node, Text(node.state, style=style), code, took, f"{node.collected} files")
    return table


def machine(examined: Examined, name: str) -> str:
    """A node in a few words."""
    facts, memory = examined.facts[name], examined.parts(name).memory
    system = examined.system(name)
    python = facts.python
    words = [
        system.os or facts.system,
        f"Python {python.version}" if python.version else "no Python",
        f"torch {python.torch}" if python.torch else "no torch",
        f"{memory.cores if memory is not None else '?'} cores",
        f"{memory.total / 1e9 if memory is not None else 0:.0f} GB",
    ]
    gpus = examined.parts(name).gpus or ()
    if gpus:
        words.append(f"{len(gpus)} x {gpus[0]['name']}")
    return ", ".join(words)


def _run_cells(run: Run) -> list[Text]:
    """A run as ``orch ps`` shows it."""
    state = f"{run.state} ({run.leftovers} processes)" if run.leftovers else run.state
    state += f", attempt {run.attempt}" if run.attempt > 1 else ""
    nodes = folded(run.nodes) + (f" (no answer: {folded(run.missing)})" if run.missing else "")
    since = "-" if run.age is None else age(run.age)
    words = (run.run_id, run.workload, since, nodes, str(run.ranks), state, run.owner, run.last_line or "")
    return [Text(word) for word in words]
