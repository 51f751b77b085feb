"""What the state machine of a run wants done. The engine does it and tells what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from orchestrator.core.diagnosis.diagnosis import Diagnosis
from orchestrator.errors import OrchError
from orchestrator.protocol.events import Event


class Deadline(Enum):
    """What a deadline is for."""

    LIMIT = "the run takes too long"
    RETRY = "a node is to be tried again"
    FENCE = "a lost node is to be tried again"
    COLLECT = "outputs are to be fetched in between"


@dataclass(frozen=True)
class Timer:
    """A deadline of an attempt, of one node if it is named."""

    kind: Deadline
    attempt: int
    node: str | None = None


@dataclass(frozen=True)
class OnNode:
    """Something to be done to one node of one attempt."""

    node: str
    attempt: int


@dataclass(frozen=True)
class Start(OnNode):
    """Start the attempt there and hear it. Answered by Started or Refused."""


@dataclass(frozen=True)
class Follow(OnNode):
    """Hear an attempt that was started before. Answered by Started or Refused."""


@dataclass(frozen=True)
class Undo(OnNode):
    """End what a start that was refused elsewhere began there. ``broken``: the connection must be made again
    first, and is tried for a while. Answered by Undone."""

    broken: bool = False


@dataclass(frozen=True)
class StopNode(OnNode):
    """Tell the supervisor to end the attempt within ``grace`` seconds. Answered by StopFailed, or by its end."""

    grace: float


@dataclass(frozen=True)
class Reconnect(OnNode):
    """Reach the node again and hear it from where it was heard last. Answered by Back or StillDown."""


@dataclass(frozen=True)
class HangUp(OnNode):
    """Hear the node no more."""


@dataclass(frozen=True)
class Sweep(OnNode):
    """End what an orphaned attempt left behind. Answered by Swept, or by Broke."""


@dataclass(frozen=True)
class Fence(OnNode):
    """Reach a node that was given up, and end the attempt there. Answered by Fenced or FenceFailed."""


@dataclass(frozen=True)
class Record:
    """Keep an event and show it."""

    event: Event


@dataclass(frozen=True)
class Wait:
    """Answer Due after so many seconds."""

    timer: Timer
    seconds: float


@dataclass(frozen=True)
class Collect:
    """Fetch the outputs of these nodes. Answered by Noted for each; then, if ``final``, by CollectionDone."""

    attempt: int
    nodes: tuple[str, ...]
    final: bool


@dataclass(frozen=True)
class Explain:
    """Find in the logs what made the attempt fail. Answered by Explained."""

    attempt: int


@dataclass(frozen=True)
class ShowRefusals:
    """Show why an attempt could not start."""

    errors: tuple[OrchError, ...]


@dataclass(frozen=True)
class Prepare:
    """Make a next attempt ready, with others in the place of ``missing`` nodes; none of ``given_up``.

    ``found``: what made the one before fail, to be shown. Answered by Prepared or NotPrepared.
    """

    attempt: int
    survivors: tuple[str, ...]
    missing: int
    given_up: frozenset[str]
    found: Diagnosis | None = None


@dataclass(frozen=True)
class Finish:
    """The run is over, or ``left`` to itself. ``refusals``: why it never began; then there is no exit code."""

    exit_code: int | None
    found: Diagnosis | None = None
    left: bool = False
    refusals: tuple[OrchError, ...] = ()


Action = OnNode | Record | Wait | Collect | Explain | ShowRefusals | Prepare | Finish
