"""What the scripts of all shells have in common: a plan that users carry out without orch, one script a node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import count

from orchestrator.core.launch.command import NodeCommand, command
from orchestrator.core.launch.plan import LaunchPlan, NodePlan
from orchestrator.core.text.secret import masked_words
from orchestrator.errors import UsageError

STEM = "run_distributed_node"


@dataclass(frozen=True)
class Word:
    """A word of a command. For a secret, ``text`` is masked and ``variable`` names the variable that holds it."""

    text: str
    variable: str | None = None


def script_name(node: NodePlan, suffix: str) -> str:
    """Return the name of a node's script, such as ``run_distributed_node1.sh`` for node_rank 0."""
    return f"{STEM}{node.node_rank + 1}.{suffix}"


def by_hand(plan: LaunchPlan) -> LaunchPlan:
    """Return the plan with the ranks' output shown, and without a folder that belongs to orch on a node."""
    nodes = tuple(replace(node, attempt_dir=f"{node.work}.logs") for node in plan.nodes)
    return replace(plan, nodes=nodes, tee=True)


def node_commands(plan: LaunchPlan) -> list[tuple[NodePlan, NodeCommand]]:
    """Return the nodes of the plan with the commands to start by hand, in node_rank order.

    Raises UsageError for a job, whose nodes are not known.
    """
    if plan.batch:
        raise UsageError("Slurm chooses the nodes when the job runs", remedy="--format sbatch writes one script")
    if plan.mpi is not None:
        what = "mpirun's daemons get their command lines from orch while it runs"
        raise UsageError(what, remedy="--format json, or leave out --launcher mpirun")
    shown = by_hand(plan)
    return [(node, command(shown, node)) for node in shown.nodes]


def words(argv: tuple[str, ...]) -> list[Word]:
    """Return the words of a command; those with a secret are taken from ``ORCH_ARG_1``, ``ORCH_ARG_2``, ..."""
    found: list[Word] = []
    number = count(1)
    for word, shown in zip(argv, masked_words(argv), strict=True):
        found.append(Word(shown, None if shown == word else f"ORCH_ARG_{next(number)}"))
    return found


def secrets(launch: NodeCommand, taken: list[Word]) -> dict[str, str]:
    """Return what a reader has to set before the start: the variable's name and what it holds."""
    shown = launch.shown_env
    found = {name: "a secret variable" for name in launch.env if shown[name] != launch.env[name]}
    return found | {word.variable: f"the argument {_one_line(word.text)}" for word in taken if word.variable}


def heading(plan: LaunchPlan, node: NodePlan) -> str:
    """Return one line that says which node of which run a script is for."""
    ranks = _ranks(node)
    return (
        f"{_one_line(node.node)}: node_rank {node.node_rank} of {len(plan.nodes)} nodes, {ranks}run {plan.run_id}"
    )


def joined(scripts: Mapping[str, str]) -> str:
    """Return the scripts of all nodes as one text to read, each below a line with its file's name."""
    return "\n".join(f"# ---- {name}\n{text}" for name, text in scripts.items())


def _ranks(node: NodePlan) -> str:
    if node.first_rank is None:
        return ""
    last = node.first_rank + node.nproc_per_node - 1
    return f"rank {last}, " if last == node.first_rank else f"ranks {node.first_rank} to {last}, "


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
