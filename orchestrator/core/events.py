"""What happens in a run, as values; a list of events is enough to say how it ended.

Kinds that nodes report: ``torchrun_started``, ``worker``, ``rank_failed``, ``stopping``, ``failed_to_start``,
``finished``. Kinds of the control side: ``planned`` (an attempt begins), ``stop_requested``, ``reconnecting``,
``reconnected``, ``node_lost``, ``orphaned``, ``swept``, ``fenced``, ``evidence``, ``diagnosed``, ``collected``,
``collect_failed``, ``carried``, ``not_carried``, ``detached``, ``attached``, ``log_cut``, ``stop_failed``,
``run_finished``.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """One thing that happened. ``time`` is in seconds since the epoch, by the clock of whoever saw it."""

    time: float
    kind: str
    node: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """One line of ``events.jsonl``, without its newline."""
        return json.dumps({"time": self.time, "event": self.kind, "node": self.node, **self.fields})

    @classmethod
    def from_json(cls, line: str) -> Event:
        """The event of a line of ``events.jsonl``; raises ValueError or KeyError if it is not one."""
        return cls.from_dict(json.loads(line))

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], node: str | None = None) -> Event:
        """The event of a JSON object, as ``events.jsonl`` has it or as ``node`` sent it."""
        rest = {key: item for key, item in value.items() if key not in ("time", "event", "node")}
        return cls(value["time"], value["event"], node or value.get("node"), rest)


# What a node's own journal holds; the rest is the control machine's.
OF_NODES = ("torchrun_started", "worker", "rank_failed", "stopping", "failed_to_start", "finished")


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


def fold(events: Iterable[Event]) -> RunResult:
    """The state that a run's events amount to."""
    attempt = 1
    nodes: dict[str, dict[str, Any]] = {}
    restarts: dict[str, int] = {}
    failures: list[Failure] = []
    evidence: list[Evidence] = []
    stop_reason: str | None = None
    by_user = False
    min_nodes: int | None = None
    for event in events:
        fields = event.fields
        if event.kind == "planned":
            attempt, min_nodes = fields.get("attempt", 1), fields.get("min_nodes")
            nodes, restarts = {name: {} for name in fields["nodes"]}, {}
            failures, evidence, stop_reason, by_user = [], [], None, False
        elif event.kind == "stop_requested":
            stop_reason = stop_reason or fields["reason"]
            by_user = by_user or fields.get("by_user", False)
        elif event.kind == "attached":
            # Whoever was recorded as lost then and answers now was not: the fault was on this side.
            for name in fields.get("nodes", ()):
                if nodes.get(name, {}).get("state") in ("lost", "reconnecting"):
                    nodes[name].pop("state")
                    failures[:] = [known for known in failures if known.node != name or known.reason is None]
        elif event.kind == "evidence":
            evidence.append(Evidence(event.node or "?", fields["rank"], fields["signature"], fields["line"]))
        if event.node is None:
            continue
        mine = nodes.setdefault(event.node, {})
        restart = fields.get("restart", 0)
        if event.kind == "worker" and restart > restarts.get(event.node, 0):
            # torchrun has started the ranks again: what failed before is overcome.
            restarts[event.node] = restart
            mine["ranks"] = ()
            failures.clear()
        if event.kind == "worker" and fields["rank"] is not None:
            mine["ranks"] = (*mine.get("ranks", ()), fields["rank"])
        mine.update(_changes(event, mine.get("state", "running")))
        failure = _failure(event)
        # What torchrun's end says of a failure is known already from the rank's, and a stop breaks things.
        told = event.kind == "finished" and any(known.node == event.node for known in failures)
        if failure and not told and not (by_user and not failures):
            failures.append(failure)
    results = {name: NodeResult(name, **values) for name, values in nodes.items()}
    return RunResult(attempt, results, tuple(failures), tuple(evidence), stop_reason, by_user, min_nodes)


def _changes(event: Event, state: str) -> dict[str, Any]:
    """What an event changes in its node's result."""
    fields = event.fields
    if event.kind == "torchrun_started":
        return {"began": event.time}
    if event.kind == "finished":
        code, number = fields["exit_code"], fields["signal"]
        ended = "ok" if code == 0 else "stopped" if fields["stopped"] else "failed"
        return {
            "state": ended,
            "exit_code": code,
            "signal": number,
            "killed": fields["killed"],
            "oom_kills": fields.get("oom_kills", 0),
            "alive": tuple(fields.get("alive", ())),
            "ended": event.time,
        }
    if event.kind == "node_lost":
        return {"state": "lost"}
    if event.kind == "orphaned":
        return {"state": "failed", "ended": event.time}
    if event.kind == "reconnecting" and state == "running":
        return {"state": "reconnecting"}
    if event.kind == "reconnected" and state == "reconnecting":
        return {"state": "running"}
    if event.kind == "collected":
        left, lacking = tuple(fields["left"]), fields.get("lacking")
        return {"collected": fields["files"], "left": left, "lacking": lacking, "uncollected": None}
    if event.kind == "collect_failed":
        return {"uncollected": fields["reason"]}
    return {}


def _failure(event: Event) -> Failure | None:
    fields = event.fields
    node = event.node or "?"
    if event.kind == "rank_failed":
        return Failure(
            node,
            fields["rank"],
            fields["exit_code"],
            fields["signal"],
            fields.get("message"),
            event.time,
            full_disks=tuple(fields.get("full_disks", ())),
        )
    if event.kind == "failed_to_start":
        return Failure(node, None, 127, None, fields["error"], event.time)
    if event.kind == "finished" and not fields["stopped"] and fields["exit_code"] != 0:
        return Failure(node, None, fields["exit_code"], fields["signal"], None, event.time)
    if event.kind == "node_lost":
        return Failure(node, None, None, None, None, event.time, f"was lost: {fields['reason']}")
    if event.kind == "orphaned":
        reason = REBOOTED if fields.get("rebooted") else "lost its supervisor, which was killed"
        return Failure(node, None, None, None, None, event.time, reason)
    return None


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9; the number itself for one that this system has no name for."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
