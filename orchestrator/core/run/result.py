"""What a run's events amount to: a list of them is enough to say how it ended, or stands."""

from __future__ import annotations

import functools
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from orchestrator.errors import Interrupted, NodeUnreachable, SyncError, WorkloadFailed
from orchestrator.protocol import events
from orchestrator.protocol.events import Event

REBOOTED = "was rebooted while the run was on"


@dataclass(frozen=True)
class Failure:
    """Something that went wrong on a node. ``rank`` is None where torchrun itself failed, not a worker.

    ``time`` is by the control machine's clock; ``reason`` says what became of a node that told nothing more.
    ``full_disks`` are folders there that had no room left, not even for the traceback.
    """

    node: str
    rank: int | None
    exit_code: int | None
    signal: int | None
    message: str | None = None
    time: float = 0.0
    reason: str | None = None
    full_disks: tuple[str, ...] = ()

    def describe(self) -> str:
        """``rank 2 on gpu3 was killed by SIGKILL``, say."""
        if self.reason is not None:
            return f"{self.node} {self.reason}"
        who = f"rank {self.rank} on {self.node}" if self.rank is not None else f"torchrun on {self.node}"
        if self.signal is not None:
            return f"{who} was killed by {signal_name(self.signal)}"
        return f"{who} ended with exit code {self.exit_code}"


@dataclass(frozen=True)
class MatchedLine:
    """A line of a rank's output (of torchrun's for None) that tells something; ``signature`` names what."""

    node: str
    rank: int | None
    signature: str
    line: str


@dataclass(frozen=True)
class NodeResult:
    """How one node's part stands: ``running``, ``reconnecting``, ``ok``, ``failed``, ``stopped`` or ``lost``.

    ``left`` are outputs that stayed there, ``lacking`` the newest snapshot if it is among them; ``uncollected``:
    why none could be fetched. ``alive`` are processes that could not be ended. ``restart`` counts how often
    torchrun has started the ranks again.
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
        """Seconds from torchrun's start to the end of its last process."""
        return None if self.began is None or self.ended is None else self.ended - self.began

    @property
    def over(self) -> bool:
        """Whether nothing more will come from it."""
        return self.state not in ("running", "reconnecting")


@dataclass(frozen=True)
class RunResult:
    """How a run's newest attempt ended, or stands. ``failures`` are in the order of their arrival.

    ``min_nodes``: how many nodes an elastic run needs; None for one that needs them all.
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
        """Whether no node is running any more."""
        return all(node.over for node in self.nodes.values())

    @property
    def ok(self) -> bool:
        """Whether every node ended well, or of an elastic run enough of them."""
        if self.min_nodes is not None:
            return self.over and self.bearable
        return bool(self.nodes) and all(node.state == "ok" for node in self.nodes.values())

    @property
    def bearable(self) -> bool:
        """Whether an elastic run goes on in spite of its failures: enough nodes are left, and the first of them,
        which holds the rendezvous."""
        if self.min_nodes is None:
            return False
        left = [name for name, node in self.nodes.items() if not node.over or node.state == "ok"]
        return len(left) >= self.min_nodes and next(iter(self.nodes)) in left

    @property
    def lost(self) -> tuple[str, ...]:
        """The nodes that were lost."""
        return tuple(name for name, node in self.nodes.items() if node.state == "lost")

    def after(self, event: Event) -> RunResult:
        """The result once that has happened, too."""
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
            # torchrun has started the ranks again: what failed before is overcome.
            found = replace(found, failures=())
        found = replace(found, nodes={**self.nodes, event.node: _changed(mine, event)})
        failure = _failure(event)
        # What torchrun's end says of a failure is known already from the rank's, and a stop breaks things.
        told = isinstance(event, events.Finished) and any(known.node == event.node for known in found.failures)
        if failure and not told and not (found.stopped_by_user and not found.failures):
            found = replace(found, failures=(*found.failures, failure))
        return found

    def _attached(self, names: Iterable[str]) -> RunResult:
        """Whoever was recorded as lost and answers now was not: the fault was on this side."""
        back = {
            name for name in names if name in self.nodes and self.nodes[name].state in ("lost", "reconnecting")
        }
        nodes = {
            name: replace(node, state="running") if name in back else node for name, node in self.nodes.items()
        }
        failures = tuple(each for each in self.failures if each.node not in back or each.reason is None)
        return replace(self, nodes=nodes, failures=failures)


def nothing_yet() -> RunResult:
    """A run of which nothing is known."""
    return RunResult(1, {}, (), (), None, False)


def fold(happened: Iterable[Event]) -> RunResult:
    """The state that a run's events amount to."""
    return functools.reduce(RunResult.after, happened, nothing_yet())


def exit_code(result: RunResult, blamed: str | None) -> int:
    """0 done, 1 failed, 4 a node was lost, 5 done but its outputs could not be fetched, 130 interrupted.

    ``blamed`` is the node that the diagnosis names; None where nothing failed.
    """
    if result.ok:
        return SyncError.exit_code if any(node.uncollected for node in result.nodes.values()) else 0
    if blamed is None:
        return Interrupted.exit_code
    return NodeUnreachable.exit_code if blamed in result.lost else WorkloadFailed.exit_code


def _changed(mine: NodeResult, event: Event) -> NodeResult:
    """What an event makes of its node's result."""
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
        case events.Orphaned():
            reason = REBOOTED if event.rebooted else "lost its supervisor, which was killed"
            return Failure(node, None, None, None, None, event.time, reason)
    return None


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9; the number itself for one that this system has no name for."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
