"""What happens in a run, one class a kind; ``events.jsonl`` holds them, here and on nodes.

A line is a JSON object with ``event`` (the kind), ``time``, ``node`` and the fields of the kind.
"""

from __future__ import annotations

import json

from .message import Message, of, tagged
from .shapes import decoded, flag, many, maybe, number, text, whole
from .terms import (
    ATTEMPT,
    BYTES,
    EXIT_CODE,
    LOCAL_RANK,
    NAME,
    NODE_RANK,
    PATH,
    PID,
    RANK,
    RESTART,
    SECONDS,
    TIME,
    WORDS,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

# A rank's traceback may be long.
MESSAGE = maybe(text(1 << 18))
# Why orch did something; it may quote what a server or a node said.
REASON = text(1 << 16)
NAMES = many(NAME, 10_000)
# The longest line of a journal, in bytes: one that lists a hundred thousand files.
MOST_LINE = 1 << 24


class Event(Message):
    """Something that happened. ``time``: seconds since the epoch, by the clock of whoever saw it; ``node``:
    where."""

    KIND: ClassVar[str] = ""
    time: float = of(TIME)
    node: str | None = of(maybe(NAME), default=None)

    def to_wire(self) -> dict[str, object]:
        """The JSON object of the event, with its kind."""
        return {"event": self.KIND, **super().to_wire()}


class TorchrunStarted(Event):
    """The supervisor has started torchrun. ``version``: of the protocol that the node's journal is written in."""

    KIND: ClassVar[str] = "torchrun_started"
    pid: int = of(PID)
    version: int = of(whole(), default=0)


class WorkerFound(Event):
    """torchrun has started a worker. ``logs``: its folder, below the attempt's; ``restart`` counts its starts."""

    KIND: ClassVar[str] = "worker"
    rank: int | None = of(maybe(RANK))
    local_rank: int = of(LOCAL_RANK)
    pid: int | None = of(maybe(PID))
    logs: str = of(PATH)
    restart: int = of(RESTART, default=0)


class RankFailed(Event):
    """A worker ended badly. ``message``: its exception, if it left one; ``full_disks``: folders without room."""

    KIND: ClassVar[str] = "rank_failed"
    rank: int | None = of(maybe(RANK))
    local_rank: int = of(LOCAL_RANK)
    pid: int | None = of(maybe(PID))
    exit_code: int | None = of(EXIT_CODE)
    signal: int | None = of(EXIT_CODE)
    failed_at: float | None = of(maybe(number()))
    message: str | None = of(MESSAGE, default=None)
    full_disks: tuple[str, ...] = of(many(PATH, 16), default=())


class Stopping(Event):
    """The supervisor ends the run: asked by ``by``, within ``grace`` seconds."""

    KIND: ClassVar[str] = "stopping"
    by: str = of(text())
    grace: float = of(SECONDS)


class FailedToStart(Event):
    """torchrun could not be started."""

    KIND: ClassVar[str] = "failed_to_start"
    error: str = of(text())


class Finished(Event):
    """No process of the attempt is left. ``killed``: how many had to be; ``alive``: what could not be ended."""

    KIND: ClassVar[str] = "finished"
    exit_code: int | None = of(EXIT_CODE)
    signal: int | None = of(EXIT_CODE)
    stopped: bool = of(flag)
    killed: int = of(whole(-(1 << 22), 1 << 22))
    oom_kills: int = of(whole(-(1 << 40)), default=0)
    alive: tuple[str, ...] = of(WORDS, default=())


class Planned(Event):
    """An attempt begins on these nodes, in node_rank order; an elastic one goes on with ``min_nodes`` of them."""

    KIND: ClassVar[str] = "planned"
    nodes: tuple[str, ...] = of(NAMES)
    attempt: int = of(ATTEMPT, default=1)
    min_nodes: int | None = of(maybe(NODE_RANK), default=None)
    version: int = of(whole(), default=0)


class StopRequested(Event):
    """The control side ends the run."""

    KIND: ClassVar[str] = "stop_requested"
    reason: str = of(REASON)
    grace: float = of(SECONDS, default=0.0)
    by_user: bool = of(flag, default=False)


class StopFailed(Event):
    """A node could not be told to stop."""

    KIND: ClassVar[str] = "stop_failed"
    reason: str = of(REASON)


class Reconnecting(Event):
    """A connection broke; a new one is being made."""

    KIND: ClassVar[str] = "reconnecting"
    reason: str = of(REASON)


class Reconnected(Event):
    """The node is heard again."""

    KIND: ClassVar[str] = "reconnected"


class NodeLost(Event):
    """The node has been given up."""

    KIND: ClassVar[str] = "node_lost"
    reason: str = of(REASON)


class Orphaned(Event):
    """The node's supervisor is gone and recorded no end."""

    KIND: ClassVar[str] = "orphaned"
    rebooted: bool = of(flag, default=False)


class Swept(Event):
    """Processes that an orphaned attempt left over were ended."""

    KIND: ClassVar[str] = "swept"
    processes: int = of(whole())


class Fenced(Event):
    """A lost node answers again; what it still ran was ended."""

    KIND: ClassVar[str] = "fenced"


class Evidence(Event):
    """A line of a log (torchrun's for a rank of None) that a failure signature matches."""

    KIND: ClassVar[str] = "evidence"
    rank: int | None = of(maybe(RANK))
    signature: str = of(text())
    line: str = of(text(1 << 16))


class Diagnosed(Event):
    """What the failure amounts to."""

    KIND: ClassVar[str] = "diagnosed"
    signature: str = of(text())
    rank: int | None = of(maybe(RANK))
    what: str = of(text(1 << 18))
    cause: str = of(text(1 << 18))
    remedy: str = of(text(1 << 16))
    evidence: tuple[str, ...] = of(many(text(1 << 18)), default=())
    show_log: bool = of(flag, default=True)


class Collected(Event):
    """Outputs of the node were fetched. ``left``: what stayed there; ``lacking``: the newest snapshot, if it
    did."""

    KIND: ClassVar[str] = "collected"
    files: int = of(whole())
    bytes: int = of(BYTES)
    left: tuple[str, ...] = of(many(text(1 << 14), 10_000_000), default=())
    lacking: str | None = of(maybe(text(1 << 14)), default=None)


class CollectFailed(Event):
    """Outputs of the node could not be fetched."""

    KIND: ClassVar[str] = "collect_failed"
    reason: str = of(REASON)


class Carried(Event):
    """The node gets files that others wrote, before the next attempt."""

    KIND: ClassVar[str] = "carried"
    files: tuple[str, ...] = of(many(PATH, 10_000_000))
    sources: tuple[str, ...] = of(NAMES, default=(), key="from")


class NotCarried(Event):
    """The node starts without a snapshot that another wrote."""

    KIND: ClassVar[str] = "not_carried"
    path: str = of(text(1 << 14))
    source: str = of(NAME, key="from")


class Detached(Event):
    """The control process leaves; the run goes on."""

    KIND: ClassVar[str] = "detached"


class Attached(Event):
    """A control process takes the run up, on these nodes."""

    KIND: ClassVar[str] = "attached"
    nodes: tuple[str, ...] = of(NAMES, default=())


class LogCut(Event):
    """A log here differs from the node's: ``skipped`` bytes are not kept, and a line of ``added`` bytes says
    so."""

    KIND: ClassVar[str] = "log_cut"
    rank: int | None = of(maybe(RANK))
    local_rank: int | None = of(maybe(LOCAL_RANK))
    stream: str = of(text(64))
    restart: int = of(RESTART)
    skipped: int = of(BYTES)
    added: int = of(BYTES)


class RunFinished(Event):
    """The run is over, with the exit code of the command."""

    KIND: ClassVar[str] = "run_finished"
    exit_code: int = of(whole(-1024, 1024))


# What a node's own journal holds; only the control machine makes the rest.
OF_NODES: dict[str, type[Event]] = {
    kind.KIND: kind for kind in (TorchrunStarted, WorkerFound, RankFailed, Stopping, FailedToStart, Finished)
}
KINDS: dict[str, type[Event]] = {kind.KIND: kind for kind in Event.__subclasses__()}
EVENT = tagged("event", KINDS)


def from_line(line: str) -> Event:
    """The event of a line of ``events.jsonl``; raises Misshapen if it is none, or of a kind that a later orch
    has."""
    event: Event = EVENT(decoded(line.encode("utf-8", "replace"), MOST_LINE), "event")
    return event


def to_line(event: Event) -> str:
    """A line of ``events.jsonl``, without its newline."""
    return json.dumps(event.to_wire())
