"""The programs that can start the ranks, by name. A further one is a file like theirs, and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.launch import accelerate, mpirun, torchrun
from orchestrator.core.launch.plan import LaunchPlan, NodePlan


def _nothing(_plan: LaunchPlan, _node: NodePlan) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class Launcher:
    """What a node runs. ``argv``: the command line up to the script or ``-m module``.

    ``variables``: what the launcher needs besides orch's. ``files``: texts by path, written before it starts.
    ``starter``: what the node starts instead, which starts ``argv`` for each rank; None if it starts ``argv``.
    """

    argv: Callable[[LaunchPlan, NodePlan], Sequence[str]]
    variables: Callable[[LaunchPlan, NodePlan], Mapping[str, str]] = _nothing
    files: Callable[[LaunchPlan, NodePlan], Mapping[str, str]] = _nothing
    starter: Callable[[LaunchPlan, NodePlan], Sequence[str]] | None = None


LAUNCHERS: Mapping[str, Launcher] = {
    "torchrun": Launcher(torchrun.launcher_argv),
    "accelerate": Launcher(accelerate.launcher_argv, accelerate.variables, accelerate.files),
    "mpirun": Launcher(mpirun.rank_argv, mpirun.variables, starter=mpirun.starter_argv),
}
