"""Where a run stands, as the control machine sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

from orchestrator.core.diagnosis.diagnosis import Diagnosis
from orchestrator.core.run import inputs
from orchestrator.core.run.policy import Policy
from orchestrator.core.run.result import RunResult


class Phase(Enum):
    """Where an attempt stands."""

    STARTING = "starting"
    UNDOING = "undoing"
    RUNNING = "running"
    COLLECTING = "collecting"
    EXPLAINING = "explaining"
    PREPARING = "preparing"
    OVER = "over"


class Link(Enum):
    """How this machine stands to a node. From LOST on nothing more comes from it."""

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
        """Whether nothing more comes from the node."""
        return self in (Link.LOST, Link.REFUSED, Link.ENDED)


@dataclass(frozen=True)
class NodeState:
    """One node of the attempt. ``finished``: it has said how its part ended. ``tries`` to reach it again have
    failed. ``told``: the grace of the last stop it was told, in seconds."""

    link: Link = Link.STARTING
    finished: bool = False
    tries: int = 0
    told: float | None = None
    refusal: inputs.Refused | None = None


@dataclass(frozen=True)
class RunState:
    """A run at one moment.

    ``grace``: seconds that nodes are given to end, once the attempt is to end. ``stopped``: the user has asked for
    it, so there is no further attempt. ``leaving``: this process goes as soon as every node has begun.
    ``collecting``: a collection is under way; ``collected``: it is, or was, the last one. ``given_up``: hosts that
    no further attempt is to count on. ``postponed``: the next attempt waits for the outcome of fences.
    ``fencing``: lost nodes that are yet to be fenced, and whether a try is under way.
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

    @property
    def over(self) -> bool:
        """Whether nothing is left to be done."""
        return self.phase is Phase.OVER
