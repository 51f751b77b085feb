"""What a run's events amount to: a list of them is enough to say how it ended, or stands."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

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
class Evidence:
    """A line of a rank's output (of torchrun's for None) that tells something; ``signature`` names what."""

    node: str
    rank: int | None
    signature: str
    line: str


@dataclass(frozen=True)
class NodeResult:
    """How one node's part stands: ``running``, ``reconnecting``, ``ok``, ``failed``, ``stopped`` or ``lost``.

    ``left`` are outputs that stayed there, ``lacking`` the newest snapshot if it is among them; ``uncollected``:
    why none could be fetched. ``alive`` are processes that could not be ended.
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
    evidence: tuple[Evidence, ...]
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


def fold(happened: Iterable[Event]) -> RunResult:
    """The state that a run's events amount to."""
    attempt = 1
    nodes: dict[str, dict[str, Any]] = {}
    restarts: dict[str, int] = {}
    failures: list[Failure] = []
    evidence: list[Evidence] = []
    stop_reason: str | None = None
    by_user = False
    min_nodes: int | None = None
    for event in happened:
        match event:
            case events.Planned():
                attempt, min_nodes = event.attempt, event.min_nodes
                nodes, restarts = {name: {} for name in event.nodes}, {}
                failures, evidence, stop_reason, by_user = [], [], None, False
            case events.StopRequested():
                stop_reason = stop_reason or event.reason
                by_user = by_user or event.by_user
            case events.Attached():
                # Whoever was recorded as lost then and answers now was not: the fault was on this side.
                for name in event.nodes:
                    if nodes.get(name, {}).get("state") in ("lost", "reconnecting"):
                        nodes[name].pop("state")
                        failures[:] = [known for known in failures if known.node != name or known.reason is None]
            case events.Evidence():
                evidence.append(Evidence(event.node or "?", event.rank, event.signature, event.line))
        if event.node is None:
            continue
        mine = nodes.setdefault(event.node, {})
        if isinstance(event, events.WorkerFound):
            if event.restart > restarts.get(event.node, 0):
                # torchrun has started the ranks again: what failed before is overcome.
                restarts[event.node] = event.restart
                mine["ranks"] = ()
                failures.clear()
            if event.rank is not None:
                mine["ranks"] = (*mine.get("ranks", ()), event.rank)
        mine.update(_changes(event, mine.get("state", "running")))
        failure = _failure(event)
        # What torchrun's end says of a failure is known already from the rank's, and a stop breaks things.
        told = isinstance(event, events.Finished) and any(known.node == event.node for known in failures)
        if failure and not told and not (by_user and not failures):
            failures.append(failure)
    results = {name: NodeResult(name, **values) for name, values in nodes.items()}
    return RunResult(attempt, results, tuple(failures), tuple(evidence), stop_reason, by_user, min_nodes)


def _changes(event: Event, state: str) -> dict[str, Any]:
    """What an event changes in its node's result."""
    match event:
        case events.TorchrunStarted():
            return {"began": event.time}
        case events.Finished():
            return {
                "state": "ok" if event.exit_code == 0 else "stopped" if event.stopped else "failed",
                "exit_code": event.exit_code,
                "signal": event.signal,
                "killed": event.killed,
                "oom_kills": event.oom_kills,
                "alive": event.alive,
                "ended": event.time,
            }
        case events.NodeLost():
            return {"state": "lost"}
        case events.Orphaned():
            return {"state": "failed", "ended": event.time}
        case events.Reconnecting() if state == "running":
            return {"state": "reconnecting"}
        case events.Reconnected() if state == "reconnecting":
            return {"state": "running"}
        case events.Collected():
            about = {"collected": event.files, "left": event.left, "lacking": event.lacking}
            return {**about, "uncollected": None}
        case events.CollectFailed():
            return {"uncollected": event.reason}
    return {}


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
