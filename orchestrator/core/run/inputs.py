"""The inputs of a run's state machine: events on nodes, outcomes of actions, requests of the user, deadlines.

The engine passes each input once, in the order in which it learns of them. An input about a node names its
``attempt``, because inputs of an earlier attempt may arrive late.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.core.diagnosis.diagnosis import Diagnosis
from orchestrator.core.run.actions import Timer
from orchestrator.errors import OrchError
from orchestrator.protocol.events import Event, Hang


@dataclass(frozen=True)
class OfNode:
    """An input about one node of one attempt."""

    node: str
    attempt: int


@dataclass(frozen=True)
class Started(OfNode):
    """The node's supervisor runs the attempt, and the engine listens to the node."""


@dataclass(frozen=True)
class Refused(OfNode):
    """The node did not start the attempt, or could not be followed. ``broken``: the connection was lost, so the
    attempt may have started all the same."""

    error: OrchError
    broken: bool = False


@dataclass(frozen=True)
class Undone(OfNode):
    """The node's start was undone: no process of the attempt runs there, or the node could not be reached."""


@dataclass(frozen=True)
class Happened(OfNode):
    """The node reported an event of its journal; the event's time is by this machine's clock."""

    event: Event


@dataclass(frozen=True)
class Broke(OfNode):
    """The connection was lost; the attempt goes on at the node."""

    reason: str


@dataclass(frozen=True)
class StillDown(OfNode):
    """A try to reconnect failed. ``silent``: seconds since the node was last heard."""

    reason: str
    silent: float


@dataclass(frozen=True)
class Back(OfNode):
    """The node is heard again, from the last offsets."""


@dataclass(frozen=True)
class Unusable(OfNode):
    """The node sent data that orch cannot handle."""

    reason: str


@dataclass(frozen=True)
class Orphaned(OfNode):
    """The node's supervisor is gone and recorded no end."""

    rebooted: bool


@dataclass(frozen=True)
class Swept(OfNode):
    """The processes that an orphaned attempt left have ended. ``processes``: how many were ended."""

    processes: int


@dataclass(frozen=True)
class Ended(OfNode):
    """The node's part is over, and everything it had to report has arrived."""


@dataclass(frozen=True)
class StopFailed(OfNode):
    """The node can be reached, but the request to stop failed."""

    reason: str


@dataclass(frozen=True)
class Fenced(OfNode):
    """A lost node was reached again, and no process of the run is left there."""


@dataclass(frozen=True)
class FenceFailed(OfNode):
    """A lost node could not be fenced."""


@dataclass(frozen=True)
class Noted:
    """An action on this machine produced an event, for example Collected."""

    event: Event


@dataclass(frozen=True)
class CollectionDone:
    """A collection of the attempt's outputs has ended; the nodes' events came before."""

    attempt: int


@dataclass(frozen=True)
class Explained:
    """The attempt was diagnosed; ``found`` is None if nothing failed."""

    attempt: int
    found: Diagnosis | None


@dataclass(frozen=True)
class Looked:
    """The ranks of the attempt were looked at."""

    attempt: int
    found: Hang


@dataclass(frozen=True)
class Prepared:
    """The next attempt is ready to start on ``nodes``, in node_rank order."""

    attempt: int
    nodes: tuple[str, ...]
    min_nodes: int | None = None


@dataclass(frozen=True)
class NotPrepared:
    """The next attempt could not be prepared. ``blamed``: hosts to leave out of another try."""

    attempt: int
    blamed: tuple[str, ...] = ()


@dataclass(frozen=True)
class StopAsked:
    """The user or a signal asks for the run's end within ``grace`` seconds."""

    reason: str
    grace: float
    by_user: bool = True


@dataclass(frozen=True)
class LeaveAsked:
    """The user asks this process to leave and the run to go on."""


@dataclass(frozen=True)
class Due:
    """A deadline set by a Wait has passed."""

    timer: Timer


Input = (
    OfNode | Noted | CollectionDone | Explained | Looked | Prepared | NotPrepared | StopAsked | LeaveAsked | Due
)
