"""The actions of a run's state machine. The engine carries them out and answers with inputs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from orchestrator.core.diagnosis.diagnosis import Diagnosis
from orchestrator.errors import OrchError
from orchestrator.protocol.events import Event


class Deadline(Enum):
    """Purpose of a deadline."""

    LIMIT = "stop a run that takes too long"
    RETRY = "retry the connection to a node"
    FENCE = "try to fence a lost node"
    COLLECT = "fetch outputs while the run goes on"
    HANG = "look at ranks that make no progress while others do"


@dataclass(frozen=True)
class Timer:
    """A deadline of an attempt, or of one node of the attempt if ``node`` is given."""

    kind: Deadline
    attempt: int
    node: str | None = None


@dataclass(frozen=True)
class OnNode:
    """An action on one node of one attempt."""

    node: str
    attempt: int


@dataclass(frozen=True)
class Start(OnNode):
    """Start the attempt on the node and listen to the node. Answered by Started or Refused."""


@dataclass(frozen=True)
class Follow(OnNode):
    """Listen to a node whose attempt was started before. Answered by Started or Refused."""


@dataclass(frozen=True)
class Undo(OnNode):
    """End the attempt on the node because it could not start everywhere. ``broken``: the connection must be made
    again first, with retries for a limited time. Answered by Undone."""

    broken: bool = False


@dataclass(frozen=True)
class StopNode(OnNode):
    """Tell the supervisor to end the attempt within ``grace`` seconds. Answered by StopFailed or its end."""

    grace: float


@dataclass(frozen=True)
class Reconnect(OnNode):
    """Connect to the node again and listen from the last offsets. Answered by Back or StillDown."""


@dataclass(frozen=True)
class HangUp(OnNode):
    """Stop listening to the node."""


@dataclass(frozen=True)
class Sweep(OnNode):
    """End the processes that an orphaned attempt left. Answered by Swept or Broke."""


@dataclass(frozen=True)
class Fence(OnNode):
    """Connect to a lost node and end the run there. Answered by Fenced or FenceFailed."""


@dataclass(frozen=True)
class Record:
    """Record an event and show it."""

    event: Event


@dataclass(frozen=True)
class Wait:
    """Wait for ``seconds``. Answered by Due."""

    timer: Timer
    seconds: float


@dataclass(frozen=True)
class Collect:
    """Fetch the outputs of these nodes. Answered by Noted for each node, then by CollectionDone."""

    attempt: int
    nodes: tuple[str, ...]
    final: bool


@dataclass(frozen=True)
class Explain:
    """Diagnose the attempt's failure from its logs. Answered by Explained."""

    attempt: int


@dataclass(frozen=True)
class Look:
    """Look at what the ranks do, of which ``still`` have made no progress for ``seconds``. Answered by Looked.

    ``everyone``: whether no rank makes progress. ``nodes``: the nodes that can be asked.
    """

    attempt: int
    nodes: tuple[str, ...]
    still: frozenset[int]
    seconds: float
    everyone: bool


@dataclass(frozen=True)
class ShowRefusals:
    """Show why nodes refused to start the attempt."""

    errors: tuple[OrchError, ...]


@dataclass(frozen=True)
class Prepare:
    """Prepare the next attempt with ``survivors`` and ``missing`` other hosts, none of them in ``given_up``.

    ``found``: the diagnosis of the attempt before, to be shown. Answered by Prepared or NotPrepared.
    """

    attempt: int
    survivors: tuple[str, ...]
    missing: int
    given_up: frozenset[str]
    found: Diagnosis | None = None


@dataclass(frozen=True)
class Finish:
    """The last action: the run is over, or ``left`` going. ``exit_code`` is None if it was left or never started.

    ``refusals``: why nodes did not start or could not be followed; of a passive run, also why they were lost.
    """

    exit_code: int | None
    found: Diagnosis | None = None
    left: bool = False
    refusals: tuple[OrchError, ...] = ()


Action = OnNode | Record | Wait | Collect | Explain | Look | ShowRefusals | Prepare | Finish
