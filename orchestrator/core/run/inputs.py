"""What the state machine of a run is told: what happened on nodes, what became of actions, what the user wants.

Each is told once, in the order in which the engine learns of it. What concerns a node names the ``attempt`` that
it belongs to: word of an earlier attempt may arrive late.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.diagnosis.diagnosis import Diagnosis
from orchestrator.core.run.actions import Timer
from orchestrator.errors import OrchError
from orchestrator.protocol.events import Event


@dataclass(frozen=True)
class OfNode:
    """Something about one node of one attempt."""

    node: str
    attempt: int


@dataclass(frozen=True)
class Started(OfNode):
    """The node's supervisor runs the attempt, and the node is heard."""


@dataclass(frozen=True)
class Refused(OfNode):
    """The node did not start, or could not be followed. ``broken``: the connection was lost, so it may have
    started all the same."""

    error: OrchError
    broken: bool = False


@dataclass(frozen=True)
class Undone(OfNode):
    """Nothing of the attempt runs on a node any more whose start was undone, or it cannot be found out."""


@dataclass(frozen=True)
class Happened(OfNode):
    """An event of the node's own journal, its time by this machine's clock."""

    event: Event


@dataclass(frozen=True)
class Broke(OfNode):
    """The connection was lost; the attempt goes on there."""

    reason: str


@dataclass(frozen=True)
class StillDown(OfNode):
    """A try to reach the node again failed. ``silent``: seconds since it was last heard."""

    reason: str
    silent: float


@dataclass(frozen=True)
class Back(OfNode):
    """The node is heard again, from where it was heard last."""


@dataclass(frozen=True)
class Unusable(OfNode):
    """The node says things that orch cannot cope with."""

    reason: str


@dataclass(frozen=True)
class Orphaned(OfNode):
    """The node's supervisor is gone without having recorded an end."""

    rebooted: bool


@dataclass(frozen=True)
class Swept(OfNode):
    """What an orphaned attempt left behind has been ended: so many processes."""

    processes: int


@dataclass(frozen=True)
class Ended(OfNode):
    """The node has told everything: its part is over."""


@dataclass(frozen=True)
class StopFailed(OfNode):
    """The node could not be told to stop though it can be reached."""

    reason: str


@dataclass(frozen=True)
class Fenced(OfNode):
    """A node that was given up has been reached again, and nothing of the attempt runs there any more."""


@dataclass(frozen=True)
class FenceFailed(OfNode):
    """A node that was given up still does not answer."""


@dataclass(frozen=True)
class Noted:
    """An event that an action brought about on this machine: what was collected, say."""

    event: Event


@dataclass(frozen=True)
class CollectionDone:
    """The collection of that attempt's outputs has come to its end; each node's event was told before."""

    attempt: int


@dataclass(frozen=True)
class Explained:
    """What the attempt's failure amounts to; None if it did not fail."""

    attempt: int
    found: Diagnosis | None


@dataclass(frozen=True)
class Prepared:
    """The next attempt could start, on these nodes, in node_rank order."""

    attempt: int
    nodes: tuple[str, ...]
    min_nodes: int | None = None


@dataclass(frozen=True)
class NotPrepared:
    """There can be no next attempt with the hosts at hand. ``blamed``: hosts without which it may be tried
    again."""

    attempt: int
    blamed: tuple[str, ...] = ()


@dataclass(frozen=True)
class StopAsked:
    """The user, or a signal, wants the run to end within ``grace`` seconds."""

    reason: str
    grace: float
    by_user: bool = True


@dataclass(frozen=True)
class LeaveAsked:
    """This process is to leave, and the run to go on."""


@dataclass(frozen=True)
class Due:
    """A deadline that an action set has come."""

    timer: Timer


Input = OfNode | Noted | CollectionDone | Explained | Prepared | NotPrepared | StopAsked | LeaveAsked | Due
