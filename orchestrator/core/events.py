"""What happens in a run, as values; a list of events is enough to say how it ended.

Kinds that nodes report: ``started``, ``torchrun_started``, ``worker``, ``rank_failed``, ``stopping``,
``failed_to_start``, ``finished``, ``orphaned``. Kinds of the control side: ``planned``, ``stop_requested``,
``node_lost``, ``collected``, ``run_finished``.
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


@dataclass(frozen=True)
class Failure:
    """The first thing that went wrong. ``rank`` is None where torchrun itself failed, not a worker."""

    node: str
    rank: int | None
    exit_code: int | None
    signal: int | None
    message: str | None = None

    def describe(self) -> str:
        """``rank 2 on gpu3 was killed by SIGKILL``, say."""
        who = f"rank {self.rank} on {self.node}" if self.rank is not None else f"torchrun on {self.node}"
        if self.signal is not None:
            return f"{who} was killed by {signal_name(self.signal)}"
        return f"{who} ended with exit code {self.exit_code}"


@dataclass(frozen=True)
class NodeResult:
    """How one node's part ended; ``state`` is ``running``, ``ok``, ``failed``, ``stopped`` or ``lost``."""

    node: str
    state: str = "running"
    exit_code: int | None = None
    signal: int | None = None
    began: float | None = None
    ended: float | None = None
    killed: int = 0
    collected: int = 0
    left: tuple[str, ...] = ()

    @property
    def duration(self) -> float | None:
        """Seconds from torchrun's start to the end of its last process, by the node's clock."""
        return None if self.began is None or self.ended is None else self.ended - self.began


@dataclass(frozen=True)
class RunResult:
    """How a run ended, or stands. ``failure`` is the first one by arrival."""

    nodes: Mapping[str, NodeResult]
    failure: Failure | None
    stop_reason: str | None

    @property
    def over(self) -> bool:
        """Whether no node is running any more."""
        return all(node.state != "running" for node in self.nodes.values())

    @property
    def ok(self) -> bool:
        """Whether every node ended well."""
        return bool(self.nodes) and all(node.state == "ok" for node in self.nodes.values())


def fold(events: Iterable[Event]) -> RunResult:
    """The state that a run's events amount to."""
    nodes: dict[str, dict[str, Any]] = {}
    failure: Failure | None = None
    stop_reason: str | None = None
    for event in events:
        if event.kind == "stop_requested":
            stop_reason = stop_reason or event.fields["reason"]
        if event.kind == "planned":
            nodes = {name: {} for name in event.fields["nodes"]}
        if event.node is None:
            continue
        nodes.setdefault(event.node, {}).update(_changes(event))
        if failure is None and stop_reason is None:
            failure = _failure(event)
    results = {name: NodeResult(name, **values) for name, values in nodes.items()}
    return RunResult(results, failure, stop_reason)


def _changes(event: Event) -> dict[str, Any]:
    """What an event changes in its node's result."""
    fields = event.fields
    if event.kind == "torchrun_started":
        return {"began": event.time}
    if event.kind == "finished":
        code, number = fields["exit_code"], fields["signal"]
        state = "ok" if code == 0 else "stopped" if fields["stopped"] else "failed"
        return {
            "state": state,
            "exit_code": code,
            "signal": number,
            "killed": fields["killed"],
            "ended": event.time,
        }
    if event.kind in ("node_lost", "orphaned"):
        return {"state": "lost"}
    if event.kind == "collected":
        return {"collected": fields["files"], "left": tuple(fields["left"])}
    return {}


def _failure(event: Event) -> Failure | None:
    fields = event.fields
    node = event.node or "?"
    if event.kind == "rank_failed":
        return Failure(node, fields["rank"], fields["exit_code"], fields["signal"], fields.get("message"))
    if event.kind == "failed_to_start":
        return Failure(node, None, 127, None, fields["error"])
    if event.kind == "finished" and not fields["stopped"] and fields["exit_code"] != 0:
        return Failure(node, None, fields["exit_code"], fields["signal"])
    return None


def signal_name(number: int) -> str:
    """``SIGKILL`` for 9; the number itself for one that this system has no name for."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
