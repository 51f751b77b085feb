"""The result of a run, computed from its events alone."""

from __future__ import annotations

import functools
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from orchestrator.errors import Interrupted, NodeUnreachable, SyncError, WorkloadFailed
from orchestrator.protocol import events
from orchestrator.protocol.events import Event

REBOOTED = "was rebooted during the run"


@dataclass(frozen=True)
class Failure:
    """A failure on a node. ``rank`` is None if torchrun itself failed or the whole node was lost.

    ``time`` is by the control machine's clock. ``reason``: what became of a node that reports nothing more, None
    for other failures. ``full_disks``: folders on the node that had no room left, not even for the traceback.
    ``hung``: what to do about ranks that made no progress, of which ``message`` tells.
    """

    node: str
    rank: int | None
    exit_code: int | None
    signal: int | None
    message: str | None = None
    time: float = 0.0
    reason: str | None = None
    full_disks: tuple[str, ...] = ()
    hung: str | None = None

    def describe(self) -> str:
        """Return the failure in words, for example ``rank 2 on gpu3 was killed by SIGKILL``."""
        if self.hung is not None:
            return "the run hangs"
        if self.reason is not None:
            return f"{self.node} {self.reason}"
        who = f"rank {self.rank} on {self.node}" if self.rank is not None else f"torchrun on {self.node}"
        if self.signal is not None:
            return f"{who} was killed by {signal_name(self.signal)}"
        return f"{who} ended with exit code {self.exit_code}"


@dataclass(frozen=True)
class MatchedLine:
    """A line of a rank's output that matches a failure signature; ``rank`` is None for torchrun's output."""

    node: str
    rank: int | None
    signature: str
    line: str


@dataclass(frozen=True)
class NodeResult:
    """One node's part. ``state``: ``running``, ``reconnecting``, ``ok``, ``failed``, ``stopped`` or ``lost``.

    ``killed``: number of processes that had to be killed; ``alive``: processes that could not be ended.
    ``collected``: number of files fetched; ``left``: outputs not fetched; ``lacking``: the newest snapshot, if
    among ``left``; ``uncollected``: why the collection failed. ``restart``: number of restarts by torchrun.
    """

    node: str
    state: str = "running"
    exit_code: int | None = None
    signal: int | None = None
    began: float | None = None
    ended: float | None = None
    killed: int = 0
    oom_kills: int = 0
    collected: int = 0
    left: tuple[str, ...] = ()
    lacking: str | None = None
    uncollected: str | None = None
    alive: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    restart: int = 0

    @property
    def duration(self) -> float | None:
        """Seconds from torchrun's start to the end of the last process; None until both are known."""
        return None if self.began is None or self.ended is None else self.ended - self.began

    @property
    def over(self) -> bool:
        """Whether the node has nothing more to report."""
        return self.state not in ("running", "reconnecting")


@dataclass(frozen=True)
class RunResult:
    """The result so far of a run's newest attempt. ``failures`` are in order of arrival.

    ``min_nodes``: number of nodes that an elastic run needs; None if the run needs them all.
    """

    attempt: int
    nodes: Mapping[str, NodeResult]
    failures: tuple[Failure, ...]
    evidence: tuple[MatchedLine, ...]
    stop_reason: str | None
    stopped_by_user: bool
    min_nodes: int | None = None

    @property
    def over(self) -> bool:
        """Whether every node's part is over."""
        return all(node.over for node in self.nodes.values())

    @property
    def ok(self) -> bool:
        """Whether all nodes succeeded; for an elastic run, enough of them."""
        if self.min_nodes is not None:
            return self.over and self.bearable
        return bool(self.nodes) and all(node.state == "ok" for node in self.nodes.values())

    @property
    def bearable(self) -> bool:
        """Whether an elastic run goes on in spite of its failures: enough nodes are left, including the first,
        which holds the rendezvous."""
        if self.min_nodes is None:
            return False
        left = [name for name, node in self.nodes.items() if not node.over or node.state == "ok"]
        return len(left) >= self.min_nodes and next(iter(self.nodes)) in left

    @property
    def lost(self) -> tuple[str, ...]:
        """Names of the lost nodes."""
        return tuple(name for name, node in self.nodes.items() if node.state == "lost")

    def after(self, event: Event) -> RunResult:
        """Return the result with ``event`` applied."""
        match event:
            case events.Planned():
                nodes = {name: NodeResult(name) for name in event.nodes}
                return RunResult(event.attempt, nodes, (), (), None, False, event.min_nodes)
            case events.StopRequested():
                reason = self.stop_reason or event.reason
                return replace(self, stop_reason=reason, stopped_by_user=self.stopped_by_user or event.by_user)
            case events.Attached():
                return self._attached(event.nodes)
        if event.node is None:
            return self
        mine = self.nodes.get(event.node, NodeResult(event.node))
        found = self
        if isinstance(event, events.Evidence):
            line = MatchedLine(event.node, event.rank, event.signature, event.line)
            found = replace(self, evidence=(*self.evidence, line))
        if isinstance(event, events.WorkerFound) and event.restart > mine.restart:
            # torchrun has restarted the ranks, so the run has recovered from its earlier failures.
            found = replace(found, failures=())
        found = replace(found, nodes={**self.nodes, event.node: _changed(mine, event)})
        failure = _failure(event)
        # torchrun's exit repeats a failure known from its rank, and a user's stop makes ranks fail.
        told = isinstance(event, events.Finished) and any(known.node == event.node for known in found.failures)
        if failure and not told and not (found.stopped_by_user and not found.failures):
            found = replace(found, failures=(*found.failures, failure))
        return found

    def _attached(self, names: Iterable[str]) -> RunResult:
        """Return the result with lost nodes of ``names`` running again: the loss was a fault on this side."""
        back = {
            name for name in names if name in self.nodes and self.nodes[name].state in ("lost", "reconnecting")
        }
        nodes = {
            name: replace(node, state="running") if name in back else node for name, node in self.nodes.items()
        }
        failures = tuple(each for each in self.failures if each.node not in back or each.reason is None)
        return replace(self, nodes=nodes, failures=failures)


def nothing_yet() -> RunResult:
    """Return the result of a run without events."""
    return RunResult(1, {}, (), (), None, False)


def fold(happened: Iterable[Event]) -> RunResult:
    """Return the result of a run's events."""
    return functools.reduce(RunResult.after, happened, nothing_yet())


def exit_code(result: RunResult, blamed: str | None) -> int:
    """Return the exit code: 0 done, 1 failed, 4 node lost, 5 done but outputs not fetched, 130 interrupted.

    ``blamed`` is the node that the diagnosis names; None if nothing failed.
    """
    if result.ok:
        return SyncError.exit_code if any(node.uncollected for node in result.nodes.values()) else 0
    if blamed is None:
        return Interrupted.exit_code
    return NodeUnreachable.exit_code if blamed in result.lost else WorkloadFailed.exit_code


def _changed(mine: NodeResult, event: Event) -> NodeResult:
    """Return the node's result with ``event`` applied."""
    match event:
        case events.TorchrunStarted():
            return replace(mine, began=event.time)
        case events.WorkerFound():
            ranks = () if event.restart > mine.restart else mine.ranks
            known = ranks if event.rank is None else (*ranks, event.rank)
            return replace(mine, restart=max(mine.restart, event.restart), ranks=known)
        case events.Finished():
            return replace(
                mine,
                state="ok" if event.exit_code == 0 else "stopped" if event.stopped else "failed",
                exit_code=event.exit_code,
                signal=event.signal,
                killed=event.killed,
                oom_kills=event.oom_kills,
                alive=event.alive,
                ended=event.time,
            )
        case events.NodeLost():
            return replace(mine, state="lost")
        case events.Orphaned():
            return replace(mine, state="failed", ended=event.time)
        case events.Reconnecting() if mine.state == "running":
            return replace(mine, state="reconnecting")
        case events.Reconnected() if mine.state == "reconnecting":
            return replace(mine, state="running")
        case events.Collected():
            return replace(mine, collected=event.files, left=event.left, lacking=event.lacking, uncollected=None)
        case events.CollectFailed():
            return replace(mine, uncollected=event.reason)
    return mine


def _failure(event: Event) -> Failure | None:
    """Return the failure that ``event`` reports, if any."""
    node = event.node or "?"
    match event:
        case events.RankFailed():
            return Failure(
                node,
                event.rank,
                event.exit_code,
                event.signal,
                event.message,
                event.time,
                full_disks=event.full_disks,
            )
        case events.FailedToStart():
            return Failure(node, None, 127, None, event.error, event.time)
        case events.Finished() if not event.stopped and event.exit_code != 0:
            return Failure(node, None, event.exit_code, event.signal, None, event.time)
        case events.NodeLost():
            return Failure(node, None, None, None, None, event.time, f"was lost: {event.reason}")
        case events.Hang() if event.ends:
            return Failure(node, event.rank, None, None, event.what, event.time, hung=event.remedy)
        case events.Orphaned():
            reason = REBOOTED if event.rebooted else "lost its supervisor, which was killed"
            return Failure(node, None, None, None, None, event.time, reason)
    return None


def signal_name(number: int) -> str:
    """Return the signal's name, ``SIGKILL`` for 9, or ``signal N`` if this system has no name for it."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
