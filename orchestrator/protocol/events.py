"""Events of a run, one class for each kind; ``events.jsonl`` holds them, on the control machine and on nodes.

A line is a JSON object with ``event`` (the kind), ``time``, ``node`` and the fields of the kind. The supervisor
records the kinds of ``OF_NODES`` in the node's journal, and ``follow`` sends them in ``Journaled`` messages; the
control side records those and all other kinds. Events are not answered.
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

# An exception with its traceback, which may be long.
MESSAGE = maybe(text(1 << 18))
# The reason for an action of orch; it may quote a server or a node.
REASON = text(1 << 16)
NAMES = many(NAME, 10_000)
# Longest line of a journal, in bytes; such a line can list a hundred thousand files.
MOST_LINE = 1 << 24


class Event(Message):
    """Base class of events.

    ``time``: when the event was recorded, in seconds since the epoch. A node's journal has the node's clock; the
    control side converts the times that it receives to its own clock.
    ``node``: the node that the event is about; None for the whole run, and in a node's own journal.
    """

    KIND: ClassVar[str] = ""
    time: float = of(TIME)
    node: str | None = of(maybe(NAME), default=None)

    def to_wire(self) -> dict[str, object]:
        """Return the JSON object of the event, including its kind."""
        return {"event": self.KIND, **super().to_wire()}


class TorchrunStarted(Event):
    """The supervisor has started torchrun.

    ``pid``: process id of torchrun.
    ``version``: protocol version of the node's journal; 0 for journals that predate version numbers.
    """

    KIND: ClassVar[str] = "torchrun_started"
    pid: int = of(PID)
    version: int = of(whole(), default=0)


class WorkerFound(Event):
    """The supervisor has found a worker that torchrun started.

    ``rank``: None if the worker ended before it was seen and torchrun assigns the ranks.
    ``local_rank``: rank on this node.
    ``pid``: process id; None if the worker ended before it was seen.
    ``logs``: folder of the worker's output, relative to the attempt's folder.
    ``restart``: how often torchrun had started this local rank before; 0 for its first start.
    """

    KIND: ClassVar[str] = "worker"
    rank: int | None = of(maybe(RANK))
    local_rank: int = of(LOCAL_RANK)
    pid: int | None = of(maybe(PID))
    logs: str = of(PATH)
    restart: int = of(RESTART, default=0)


class RankFailed(Event):
    """The first worker of a node that failed, once for each start of the ranks.

    ``rank``: None if it is not known. ``local_rank``: rank on this node. ``pid``: process id.
    ``exit_code``: None if a signal ended the worker. ``signal``: its number; None if the worker exited.
    ``failed_at``: the time that torchrun's summary gives, in seconds since the epoch by the node's clock; None if
    the failure was read from torchrun's log, which gives no time.
    ``message``: the exception that the worker recorded; None if it recorded none.
    ``full_disks``: those of the attempt's folder and the working folder whose disk is full.
    """

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
    """The supervisor has begun to end the run.

    ``by``: ``stop`` for a request, ``SIGTERM``, or the reason of the dead man's switch.
    ``grace``: how long processes may take to end before they are killed, in seconds.
    """

    KIND: ClassVar[str] = "stopping"
    by: str = of(text())
    grace: float = of(SECONDS)


class FailedToStart(Event):
    """torchrun could not be started. ``error``: the reason that the operating system gave."""

    KIND: ClassVar[str] = "failed_to_start"
    error: str = of(text())


class Still(Event):
    """Which ranks of the node have made no progress for ``after`` seconds, recorded whenever that changes.

    ``ranks``: those ranks; none once they all move again. ``among``: how many ranks of the node have a process.
    ``after``: the time that was asked for, in seconds.
    """

    KIND: ClassVar[str] = "still"
    ranks: tuple[int, ...] = of(many(RANK, 65536))
    among: int = of(LOCAL_RANK)
    after: float = of(SECONDS)


class Finished(Event):
    """The attempt has ended on this node; its supervisor exits.

    ``exit_code``: torchrun's; None if a signal ended it. ``signal``: its number; None if torchrun exited.
    ``stopped``: whether a stop ended the attempt.
    ``killed``: how many processes that torchrun left behind had to be killed.
    ``oom_kills``: how many processes the machine killed for lack of memory during the attempt.
    ``alive``: descriptions of the processes that could not be ended.
    """

    KIND: ClassVar[str] = "finished"
    exit_code: int | None = of(EXIT_CODE)
    signal: int | None = of(EXIT_CODE)
    stopped: bool = of(flag)
    killed: int = of(whole(-(1 << 22), 1 << 22))
    oom_kills: int = of(whole(-(1 << 40)), default=0)
    alive: tuple[str, ...] = of(WORDS, default=())


class Planned(Event):
    """An attempt begins.

    ``nodes``: its nodes, in node_rank order. ``attempt``: its number, from 1.
    ``min_nodes``: how many nodes an elastic run needs; None if the run is not elastic.
    ``version``: protocol version of the record; 0 for records that predate version numbers.
    """

    KIND: ClassVar[str] = "planned"
    nodes: tuple[str, ...] = of(NAMES)
    attempt: int = of(ATTEMPT, default=1)
    min_nodes: int | None = of(maybe(NODE_RANK), default=None)
    version: int = of(whole(), default=0)


class StopRequested(Event):
    """The control side has begun to stop the run on all nodes.

    ``reason``: why. ``grace``: how long processes may take to end, in seconds. ``by_user``: whether the user asked
    for the stop.
    """

    KIND: ClassVar[str] = "stop_requested"
    reason: str = of(REASON)
    grace: float = of(SECONDS, default=0.0)
    by_user: bool = of(flag, default=False)


class StopFailed(Event):
    """The node could not be asked to stop. ``reason``: why."""

    KIND: ClassVar[str] = "stop_failed"
    reason: str = of(REASON)


class Reconnecting(Event):
    """The connection to the node was lost, and a new one is being made. ``reason``: how it was lost."""

    KIND: ClassVar[str] = "reconnecting"
    reason: str = of(REASON)


class Reconnected(Event):
    """The node is heard again."""

    KIND: ClassVar[str] = "reconnected"


class NodeLost(Event):
    """The node was given up. ``reason``: why."""

    KIND: ClassVar[str] = "node_lost"
    reason: str = of(REASON)


class Orphaned(Event):
    """The node's supervisor is gone and recorded no end.

    ``rebooted``: whether the node was rebooted since the attempt began; then no process of the run is left there.
    """

    KIND: ClassVar[str] = "orphaned"
    rebooted: bool = of(flag, default=False)


class Swept(Event):
    """The control side ended what an orphaned attempt left. ``processes``: how many processes that were."""

    KIND: ClassVar[str] = "swept"
    processes: int = of(whole())


class Fenced(Event):
    """A lost node answered again, and the processes of the run that were left there were ended."""

    KIND: ClassVar[str] = "fenced"


class Evidence(Event):
    """A line of the node's logs matches a failure signature.

    ``rank``: the rank whose log holds the line; None for torchrun's log.
    ``signature``: name of the signature. ``line``: the text of the line.
    """

    KIND: ClassVar[str] = "evidence"
    rank: int | None = of(maybe(RANK))
    signature: str = of(text())
    line: str = of(text(1 << 16))


class Diagnosed(Event):
    """The diagnosis of a failed run; ``node`` is the node to blame.

    ``signature``: name of the failure signature, or of how the process ended.
    ``rank``: the rank to blame; None if the node or torchrun is.
    ``what``, ``cause``, ``remedy``: what happened, why, and what to do about it, for the user.
    ``evidence``: the log lines behind the diagnosis.
    ``show_log``: whether the last lines of that rank's log say more.
    """

    KIND: ClassVar[str] = "diagnosed"
    signature: str = of(text())
    rank: int | None = of(maybe(RANK))
    what: str = of(text(1 << 18))
    cause: str = of(text(1 << 18))
    remedy: str = of(text(1 << 16))
    evidence: tuple[str, ...] = of(many(text(1 << 18)), default=())
    show_log: bool = of(flag, default=True)


class Hang(Event):
    """Ranks have made no progress for a long time; ``node`` is the node of ``rank``, or the first one.

    ``rank``: the rank that the others wait for; None if that cannot be told.
    ``what``: what the ranks do, in a sentence. ``remedy``: what to do about it.
    ``stacks``: what the ranks do, a line for each group of equal ranks.
    ``file``: the file in the run's folder with all stacks; None if there are none.
    ``everyone``: whether no rank makes progress. ``ends``: whether the attempt is ended because of this.
    """

    KIND: ClassVar[str] = "hang"
    rank: int | None = of(maybe(RANK))
    what: str = of(text(1 << 18))
    remedy: str = of(text(1 << 16))
    stacks: tuple[str, ...] = of(many(text(1 << 16), 65536), default=())
    file: str | None = of(maybe(PATH), default=None)
    everyone: bool = of(flag, default=True)
    ends: bool = of(flag, default=False)


class Straggler(Event):
    """Others wait for ranks of ``node``, or for its link, again and again.

    ``ranks``: those ranks; none if it is a link. ``what``: how that is known, and why it is so, in a sentence.
    ``remedy``: what to do about it.
    """

    KIND: ClassVar[str] = "straggler"
    ranks: tuple[int, ...] = of(many(RANK, 65536), default=())
    what: str = of(text(1 << 18))
    remedy: str = of(text(1 << 16))


class Collected(Event):
    """Outputs of the node were fetched.

    ``files``: how many of the chosen files are on the control machine now. ``bytes``: how many bytes were fetched.
    ``left``: the files that stayed on the node, each with the reason.
    ``lacking``: the entry of ``left`` for the newest snapshot; None if that was fetched or there is none.
    """

    KIND: ClassVar[str] = "collected"
    files: int = of(whole())
    bytes: int = of(BYTES)
    left: tuple[str, ...] = of(many(text(1 << 14), 10_000_000), default=())
    lacking: str | None = of(maybe(text(1 << 14)), default=None)


class CollectFailed(Event):
    """Outputs of the node could not be fetched. ``reason``: why."""

    KIND: ClassVar[str] = "collect_failed"
    reason: str = of(REASON)


class Carried(Event):
    """The node receives files that other nodes wrote, before the next attempt.

    ``files``: their paths in the working folder. ``sources``: the nodes that wrote them.
    """

    KIND: ClassVar[str] = "carried"
    files: tuple[str, ...] = of(many(PATH, 10_000_000))
    sources: tuple[str, ...] = of(NAMES, default=(), key="from")


class NotCarried(Event):
    """The node starts without the newest snapshot of another node, which was not collected.

    ``path``: the snapshot, with the reason. ``source``: the node that wrote it.
    """

    KIND: ClassVar[str] = "not_carried"
    path: str = of(text(1 << 14))
    source: str = of(NAME, key="from")


class Detached(Event):
    """The control process leaves the run, which goes on."""

    KIND: ClassVar[str] = "detached"


class Attached(Event):
    """A control process takes up the run. ``nodes``: the nodes that it reaches, in node_rank order."""

    KIND: ClassVar[str] = "attached"
    nodes: tuple[str, ...] = of(NAMES, default=())


class LogCut(Event):
    """A log on the control machine differs from the node's: a line replaces bytes that the node did not keep.

    ``rank`` and ``local_rank``: of the worker; None for torchrun's log, ``rank`` also where the rank is not known.
    ``stream``: ``stdout``, ``stderr`` or ``torchrun``. ``restart``: as in ``WorkerFound``.
    ``skipped``: how many bytes of the node's log are missing. ``added``: length of the line in bytes.
    """

    KIND: ClassVar[str] = "log_cut"
    rank: int | None = of(maybe(RANK))
    local_rank: int | None = of(maybe(LOCAL_RANK))
    stream: str = of(text(64))
    restart: int = of(RESTART)
    skipped: int = of(BYTES)
    added: int = of(BYTES)


class RunFinished(Event):
    """The run is over. ``exit_code``: the exit code of the orch command."""

    KIND: ClassVar[str] = "run_finished"
    exit_code: int = of(whole(-1024, 1024))


# The kinds that a node's journal may hold; only the control side creates the others.
OF_NODES: dict[str, type[Event]] = {
    kind.KIND: kind
    for kind in (TorchrunStarted, WorkerFound, RankFailed, Stopping, FailedToStart, Still, Finished)
}
KINDS: dict[str, type[Event]] = {kind.KIND: kind for kind in Event.__subclasses__()}
EVENT = tagged("event", KINDS)


def from_line(line: str) -> Event:
    """Return the event of a line of ``events.jsonl``.

    Raises Misshapen if the line holds no event, or one of a kind that only a later orch knows.
    """
    event: Event = EVENT(decoded(line.encode("utf-8", "replace"), MOST_LINE), "event")
    return event


def to_line(event: Event) -> str:
    """Return the line of ``events.jsonl`` for an event, without a newline."""
    return json.dumps(event.to_wire())
