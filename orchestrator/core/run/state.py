"""The state of a run's state machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from orchestrator.core.diagnosis.diagnosis import Diagnosis
from orchestrator.core.run import inputs
from orchestrator.core.run.policy import Policy
from orchestrator.core.run.result import RunResult
from orchestrator.protocol.events import Still


class Phase(Enum):
    """Phase of an attempt."""

    STARTING = "starting"
    UNDOING = "undoing"
    RUNNING = "running"
    COLLECTING = "collecting"
    EXPLAINING = "explaining"
    PREPARING = "preparing"
    OVER = "over"


class Link(Enum):
    """State of the link to a node. LOST, REFUSED and ENDED are final."""

    STARTING = "starting"
    UP = "up"
    DOWN = "down"
    SWEEPING = "sweeping"
    UNDOING = "undoing"
    LOST = "lost"
    REFUSED = "refused"
    ENDED = "ended"

    @property
    def over(self) -> bool:
        """Whether the node has nothing more to report."""
        return self in (Link.LOST, Link.REFUSED, Link.ENDED)


class Watch(Enum):
    """How far the look at ranks without progress has come: WAITING until the others may have followed."""

    MOVING = "moving"
    WAITING = "waiting"
    SOME = "some"
    ALL = "all"


@dataclass(frozen=True)
class NodeState:
    """One node of the attempt. ``finished``: the node has reported its Finished event. ``tries``: failed tries to
    reconnect since the connection broke. ``stop_grace``: grace of the last stop sent to the node, in seconds."""

    link: Link = Link.STARTING
    finished: bool = False
    tries: int = 0
    stop_grace: float | None = None
    refusal: inputs.Refused | None = None


@dataclass(frozen=True)
class RunState:
    """A run at one moment.

    ``joined``: the run was started before, and this process follows it. ``grace``: seconds that nodes have to end;
    None while the attempt is not being stopped. ``stopped``: the user asked for the end or the time limit passed,
    so there is no further attempt. ``leaving``: this process leaves as soon as every node has started.
    ``collecting``: a collection is under way; ``collected``: the final collection has begun. ``given_up``: hosts
    that no further attempt may use. ``postponed``: the next attempt waits for the fences under way.
    ``still``: what each node told last of ranks without progress; ``watch``: whether these have been looked at.
    ``fencing``: the lost nodes still to be fenced, each with whether a try is under way.
    """

    policy: Policy
    phase: Phase
    attempt: int
    nodes: Mapping[str, NodeState]
    result: RunResult
    joined: bool = False
    grace: float | None = None
    stopped: bool = False
    leaving: bool = False
    collecting: bool = False
    collected: bool = False
    postponed: bool = False
    given_up: frozenset[str] = frozenset()
    fencing: Mapping[str, bool] = field(default_factory=lambda: MappingProxyType({}))
    found: Diagnosis | None = None
    still: Mapping[str, Still] = field(default_factory=lambda: MappingProxyType({}))
    watch: Watch = Watch.MOVING

    @property
    def over(self) -> bool:
        """Whether the run's last action has been issued."""
        return self.phase is Phase.OVER
