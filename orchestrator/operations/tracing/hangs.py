"""What the ranks of a run do that make no progress, and whom they wait for."""

from __future__ import annotations

import time
from collections.abc import Mapping

from orchestrator.core.run.actions import Look
from orchestrator.core.run.result import RunResult
from orchestrator.core.text.duration import duration
from orchestrator.core.text.escapes import visible
from orchestrator.core.tracing.stacks import as_lines
from orchestrator.core.tracing.waiting import READ, Wait, ranks, waits
from orchestrator.errors import HostErrors, OrchError
from orchestrator.local.run_folder import RunFolder
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.tracing.stacks import ON_A_NODE, Looker, Stacks
from orchestrator.protocol.events import Hang
from orchestrator.remote.node import Node
from orchestrator.ui.quiet import QuietDisplay

NOT_ASKED = OrchError("the nodes of a job are not asked for stacks", remedy=ON_A_NODE)


def hang(
    opened: OpenCluster | None, nodes: Mapping[str, Node], folder: RunFolder, order: Look, result: RunResult
) -> Hang:
    """Look at the ranks of a run, and keep their stacks in its folder. ``opened``: None if nodes are not asked."""
    found, missing = None, NOT_ASKED
    if opened is not None:
        try:
            found = _looked(opened, [nodes[name] for name in order.nodes], folder.path.name, result)
        except OrchError as error:
            missing = error.errors[0] if isinstance(error, HostErrors) else error
    if found is None:
        some = f"{ranks(sorted(order.still))} made" if order.still and not order.everyone else "the run makes"
        what = f"{some} no progress for {duration(order.seconds)} (without stacks: {missing.message})"
        wait = Wait(what, missing.remedy or READ)
    else:
        wait = waits(found.groups, order.still, order.seconds)
    return Hang(
        time=time.time(),
        node=wait.node or order.nodes[0] if order.nodes else next(iter(result.nodes), None),
        rank=wait.rank,
        what=visible(wait.what),
        remedy=wait.remedy,
        stacks=tuple(as_lines(found.groups, False)) if found is not None else (),
        file=None if found is None else _kept(folder, found),
        everyone=order.everyone,
    )


def _looked(opened: OpenCluster, nodes: list[Node], run_id: str, result: RunResult) -> Stacks:
    expected = {rank: name for name, node in result.nodes.items() if not node.over for rank in node.ranks}
    return Looker(opened, run_id, nodes, expected, False, QuietDisplay()).look()


def _kept(folder: RunFolder, found: Stacks) -> str | None:
    """Write the stacks to the run's folder, and return the file's name; None if that fails."""
    taken = {path.name for path in folder.path.glob("stacks-*.txt")}
    name = next(name for number in range(1, len(taken) + 2) if (name := f"stacks-{number}.txt") not in taken)
    errors = [f"{error}" for error in found.errors]
    try:
        (folder.path / name).write_text("\n".join([*as_lines(found.groups, True), *errors]) + "\n")
    except OSError:
        return None
    return name
