"""Current and past runs on the nodes: each node's part of a run, and the run that the parts make up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.protocol.run import RunHere

# States, worst first: a run whose nodes differ is listed with the worst of their states.
STATES = ("left over", "not answering", "lost", "rebooted", "failed", "stopping", "running", "stopped", "ok")


@dataclass(frozen=True)
class NodeRun:
    """A node's part of a run, from its ``protocol.run.RunHere``. Times are in seconds, by the node's own clock."""

    run_id: str
    attempt: int
    state: str
    workload: str
    owner: str
    node: str
    nodes: tuple[str, ...]
    node_rank: int | None
    first_rank: int | None
    nproc: int
    leftovers: int
    age: float | None
    duration: float | None
    exit_code: int | None
    last_line: str | None
    min_nodes: int | None = None

    @classmethod
    def from_answer(cls, value: RunHere, now: float, asked: str) -> NodeRun:
        """Convert one entry of the answer of node ``asked``, whose clock reads ``now``."""
        began, ended = value.began, value.ended
        return cls(
            run_id=value.run_id,
            attempt=value.attempt,
            state=value.state,
            workload=value.workload or "?",
            owner=value.owner or "?",
            node=value.node or asked,
            nodes=tuple(value.nodes or (asked,)),
            node_rank=value.node_rank,
            first_rank=value.first_rank,
            nproc=value.nproc or 0,
            leftovers=value.leftovers,
            age=None if began is None else now - began,
            duration=None if began is None or ended is None else ended - began,
            exit_code=value.exit_code,
            last_line=value.last_line,
            min_nodes=value.min_nodes,
        )


@dataclass(frozen=True)
class ListedRun:
    """A run as the nodes that answered report it. ``missing``: nodes of the run that did not report it."""

    run_id: str
    attempt: int
    state: str
    workload: str
    owner: str
    nodes: tuple[str, ...]
    missing: tuple[str, ...]
    ranks: int
    leftovers: int
    age: float | None
    duration: float | None
    last_line: str | None


def whole_runs(parts: Iterable[NodeRun]) -> tuple[ListedRun, ...]:
    """Join the nodes' parts into runs, newest last; each run is described by its newest attempt."""
    by_run: dict[str, list[NodeRun]] = {}
    for part in parts:
        by_run.setdefault(part.run_id, []).append(part)
    return tuple(_joined(by_run[run_id]) for run_id in sorted(by_run))


def _joined(parts: list[NodeRun]) -> ListedRun:
    newest = max(part.attempt for part in parts)
    current = sorted((part for part in parts if part.attempt == newest), key=lambda part: part.node_rank or 0)
    first = current[0]
    names = tuple(part.node for part in current)
    states = {part.state for part in current} | {part.state for part in parts if part.leftovers}
    return ListedRun(
        run_id=first.run_id,
        attempt=newest,
        state=next((state for state in STATES if state in states), first.state),
        workload=first.workload,
        owner=first.owner,
        nodes=names,
        missing=tuple(name for name in first.nodes if name not in names),
        ranks=sum(part.nproc for part in current),
        leftovers=sum(part.leftovers for part in parts),
        age=max((part.age for part in current if part.age is not None), default=None),
        duration=max((part.duration for part in current if part.duration is not None), default=None),
        last_line=next((part.last_line for part in current if part.last_line), None),
    )
