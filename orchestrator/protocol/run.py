"""Start a run on a node, follow it, end it, list runs: requests, answers, and the frames of ``follow``."""

from __future__ import annotations

from .container.process import Contained
from .events import OF_NODES, Event
from .launch.mpi import MpiPart
from .message import Message, of, tagged
from .shapes import flag, many, maybe, number, one_of, row, table, text, whole
from .terms import (
    ADDRESS,
    ATTEMPT,
    BYTES,
    EXIT_CODE,
    LOCAL_RANK,
    NAME,
    NODE_RANK,
    PATH,
    PORT,
    RANK,
    RESTART,
    RUN_ID,
    SECONDS,
    TIME,
    TREE_ID,
    WORDS,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

# Longest grace period of a stop, in seconds: a week.
LONGEST_GRACE = 7 * 86400.0
VARIABLES = table(text(1 << 20), 65536, text(4096))


class CutOff(Message):
    """Part of ``Start``: end the attempt when the node reaches neither the control machine nor any other node.

    ``after``: how long the node must be cut off, in seconds.
    ``peers``: address and port of the SSH servers of the other nodes.
    """

    after: float = of(SECONDS)
    peers: tuple[tuple[str, int], ...] = of(many(row(ADDRESS, PORT), 10_000))


class Start(Message):
    """Sent by the control side: start one attempt on this node; answered by ``Started``, then as ``Follow`` is.

    ``run_id``: the run. ``attempt``: number of the attempt, from 1. ``node``: this node's name.
    ``nodes``: all nodes of the attempt, in node_rank order. ``node_rank``: this node's place among them.
    ``owner``: ``user@host`` that started the run. ``workload``: its name, for display.
    ``workdir``: folder for synced trees and working folders. ``project``: project of the trees.
    ``tree``: id of the synced tree to copy to the working folder. ``overlays``: trees to copy over it, in order.
    ``cwd``: where torchrun starts, relative to the working folder.
    ``argv``: the launcher's command line. ``env``: variables to set for the launcher.
    ``files``: files to write for the launcher, path to text.
    ``first_rank``: rank of the first worker here; None if torchrun assigns the ranks.
    ``min_nodes``: how many nodes an elastic run needs; None if the run is not elastic.
    ``nproc``: number of workers here.
    ``grace``: how long workers may take to end, in seconds, where the node itself ends the attempt.
    ``log_limit``: most disk that one log may use, in bytes; None for no limit.
    ``on_disconnect``: seconds without a control machine after which the attempt ends; None for never.
    ``cut_off``: when to end the attempt because the node is cut off; None for never.
    ``container``: the container that ``argv`` starts; None if it starts the launcher itself.
    ``mpi``: this node's part in a run whose ranks mpirun starts; None for any other launcher.
    ``still_after``: seconds without progress after which a rank counts as still; None for never.
    """

    VERB: ClassVar[str] = "start"

    run_id: str = of(RUN_ID)
    attempt: int = of(ATTEMPT)
    node: str = of(NAME)
    nodes: tuple[str, ...] = of(many(NAME, 10_000))
    node_rank: int = of(NODE_RANK)
    owner: str = of(text())
    workload: str = of(text())
    workdir: str = of(PATH)
    project: str = of(PATH)
    tree: str = of(TREE_ID)
    overlays: tuple[str, ...] = of(many(TREE_ID))
    cwd: str = of(PATH)
    argv: tuple[str, ...] = of(many(text(1 << 20), 65536))
    env: dict[str, str] = of(VARIABLES)
    files: dict[str, str] = of(VARIABLES)
    first_rank: int | None = of(maybe(RANK))
    min_nodes: int | None = of(maybe(NODE_RANK))
    nproc: int = of(LOCAL_RANK)
    grace: float = of(SECONDS)
    log_limit: int | None = of(maybe(BYTES), default=None)
    on_disconnect: float | None = of(maybe(SECONDS), default=None)
    cut_off: CutOff | None = of(maybe(CutOff.from_wire), default=None)
    container: Contained | None = of(maybe(Contained.from_wire), default=None)
    mpi: MpiPart | None = of(maybe(MpiPart.from_wire), default=None)
    still_after: float | None = of(maybe(SECONDS), default=None)


class Kept(Message):
    """``run.json``: what a node keeps of an attempt after its start. Not sent.

    Variables and arguments are left out, because they may contain secrets. Fields that ``Start`` lacks:

    ``version``: protocol version of the file; 0 for files that predate version numbers.
    ``work``: the working folder.
    ``program``: first word of the command only.
    ``boot_id``: id of the boot, by which a later reboot is recognised.

    A field is None as in ``Start``, or if the version that wrote the file did not record it.
    """

    version: int = of(whole(), default=0)
    run_id: str = of(RUN_ID)
    attempt: int = of(ATTEMPT)
    work: str = of(PATH)
    workdir: str = of(PATH)
    tree: str = of(TREE_ID)
    overlays: tuple[str, ...] = of(many(TREE_ID), default=())
    program: tuple[str, ...] = of(many(text(1 << 20), 65536), default=(), key="argv")
    owner: str | None = of(maybe(text()), default=None)
    workload: str | None = of(maybe(text()), default=None)
    node: str | None = of(maybe(NAME), default=None)
    nodes: tuple[str, ...] | None = of(maybe(many(NAME, 10_000)), default=None)
    node_rank: int | None = of(maybe(NODE_RANK), default=None)
    first_rank: int | None = of(maybe(RANK), default=None)
    nproc: int | None = of(maybe(LOCAL_RANK), default=None)
    min_nodes: int | None = of(maybe(NODE_RANK), default=None)
    boot_id: str | None = of(maybe(text(64)), default=None)


class Follow(Message):
    """Sent by the control side: send an attempt's events and logs from where an earlier ``Follow`` left off.

    Answered by ``Following``, then messages of ``FOLLOWED`` and log frames, until ``End`` or ``SupervisorGone``.
    Meanwhile the control side sends bytes to show that it is there; ``!SECONDS`` and a newline ask for a stop.

    ``run_id``: the run. ``attempt``: None for the newest attempt on the node.
    ``offsets``: bytes already received of each stream, by name; under ``events``, the number of events received.
    ``ranks``: send only the logs of these ranks, and not torchrun's; None for all.
    ``since``: send only what was printed in the last so many seconds; None for everything.
    ``wait``: whether to go on until the attempt ends; if not, stop once everything that is there has been sent.
    ``tail``: of streams without an offset send only the last so many bytes; None for everything.
    """

    VERB: ClassVar[str] = "follow"

    run_id: str = of(RUN_ID)
    attempt: int | None = of(maybe(ATTEMPT), default=None)
    offsets: dict[str, int] = of(table(BYTES, 1 << 20), default={})
    ranks: tuple[int, ...] | None = of(maybe(many(RANK, 1 << 20)), default=None)
    since: float | None = of(maybe(number(0, 1e11)), default=None)
    wait: bool = of(flag, default=True)
    tail: int | None = of(maybe(BYTES), default=None)


class Told(Message):
    """Base class of the node's JSON frames in ``follow``; the key ``type`` of the object tells them apart."""

    TYPE: ClassVar[str] = ""

    def to_wire(self) -> dict[str, object]:
        """Return the JSON object of the message, including its type."""
        return {"type": self.TYPE, **super().to_wire()}


class Started(Told):
    """First answer to ``Start``: the supervisor runs and is about to start torchrun."""

    TYPE: ClassVar[str] = "started"


class Following(Told):
    """The attempt exists, and its frames follow. ``time``: the node's clock, in seconds since the epoch."""

    TYPE: ClassVar[str] = "following"
    time: float = of(TIME)


class Stream(Told):
    """Announces a log; sent before its first log frame.

    ``id``: stream id in the log frames of this connection.
    ``name``: ``torchrun``, or a worker's as ``frames.stream_name`` returns it.
    ``rank``: None for torchrun's log, or if the worker's rank is not known.
    ``local_rank``: None for torchrun's log. ``restart``: as in ``WorkerFound``.
    ``first``: offset of the first byte that can be sent, where the part before it no longer exists.
    """

    TYPE: ClassVar[str] = "stream"
    id: int = of(whole(0, 65535))
    name: str = of(text(64))
    rank: int | None = of(maybe(RANK), default=None)
    local_rank: int | None = of(maybe(LOCAL_RANK), default=None)
    restart: int = of(RESTART, default=0)
    first: int = of(BYTES, default=0)


class RankPace(Message):
    """What a rank was seen doing since it started.

    ``pid``: its process. ``looks``: how often it was looked at; ``runs``, ``stopped`` and ``disk``: how often one
    of its threads could run, or else was stopped, or else waited for a disk. In the others it slept.
    ``queued``: seconds in which its main thread could run and had no core. ``throttled``: seconds in which a
    control group held it back. ``faults``: pages for which it waited for a disk.
    """

    rank: int = of(RANK)
    pid: int = of(whole())
    looks: int = of(whole())
    runs: int = of(whole())
    stopped: int = of(whole())
    disk: int = of(whole())
    queued: float = of(SECONDS)
    throttled: float = of(SECONDS)
    faults: int = of(whole())


class LinkPace(Message):
    """What the open connections from the address ``local`` to ``remote`` have sent.

    ``busy``: seconds in which data was under way on the busiest. ``sent``: bytes that arrived, of all.
    """

    local: str = of(ADDRESS)
    remote: str = of(ADDRESS)
    busy: float = of(SECONDS)
    sent: int = of(BYTES)


class GpuPace(Message):
    """What was seen of a GPU since the attempt began.

    ``looks``: how often it was looked at. ``busy`` and ``clock``: sums over these of the share of time in use, 0
    to 1, and of its clock in MHz. ``hot`` and ``limited``: in how many it was slowed down because of heat, and of
    its power. ``celsius`` and ``watts``: at the last look; None if that is not told.
    """

    gpu: int = of(whole(0, 65536))
    looks: int = of(whole())
    busy: float = of(SECONDS)
    clock: float = of(number(0, 1e12))
    hot: int = of(whole())
    limited: int = of(whole())
    celsius: float | None = of(maybe(number(-300, 1e4)), default=None)
    watts: float | None = of(maybe(number(0, 1e6)), default=None)


class Sample(Message):
    """Load of the node.

    ``cpu``: share of all cores in use, 0 to 1. ``memory_used`` and ``memory_total``: bytes.
    ``gpus``: for each GPU the share of time in use, 0 to 1, and memory used and in all, in bytes.
    ``ranks``: what each rank was seen doing. ``links``: the connections that were busy for longest.
    ``gpu_paces``: what was seen of each GPU.
    """

    cpu: float = of(number(0, 1e6))
    memory_used: int = of(whole())
    memory_total: int = of(whole())
    gpus: tuple[tuple[float, int, int], ...] = of(many(row(number(0, 100), BYTES, BYTES), 1024))
    ranks: tuple[RankPace, ...] = of(many(RankPace.from_wire, 1024), default=())
    links: tuple[LinkPace, ...] = of(many(LinkPace.from_wire, 1024), default=())
    gpu_paces: tuple[GpuPace, ...] = of(many(GpuPace.from_wire, 1024), default=())


class Beat(Told):
    """Sign of life, sent every two seconds.

    ``time``: the node's clock, in seconds since the epoch. ``sample``: newest load; None if not sampled yet.
    """

    TYPE: ClassVar[str] = "beat"
    time: float = of(TIME)
    sample: Sample | None = of(maybe(Sample.from_wire), default=None)


class Journaled(Told):
    """An ``event`` of the node's journal."""

    TYPE: ClassVar[str] = "event"
    event: Event = of(tagged("event", OF_NODES))


class SupervisorGone(Told):
    """Last frame of an attempt whose supervisor is gone and recorded no end.

    ``rebooted``: whether the node was rebooted since the attempt began; then no process of the run is left there.
    """

    TYPE: ClassVar[str] = "orphaned"
    rebooted: bool = of(flag, default=False)


class End(Told):
    """Last frame: everything has been sent."""

    TYPE: ClassVar[str] = "end"


FOLLOWED = tagged("type", {each.TYPE: each for each in (Following, Stream, Beat, Journaled, SupervisorGone, End)})


class Stop(Message):
    """Sent by the control side: end a run on this node; answered by ``Stopped`` once no process of it is left.

    ``run_id``: None for any run. ``grace``: how long its processes may take to end, in seconds.
    """

    VERB: ClassVar[str] = "stop"

    run_id: str | None = of(maybe(RUN_ID))
    grace: float = of(SECONDS)


class Holder(Message):
    """The supervisor's answer at the lock's door, and what the node program knows of the lock's holder.

    ``run_id``, ``attempt``, ``owner``, ``workload``: of the run that holds the lock; None if not known.
    ``age``: seconds since its start; None if not known. ``stopping``: whether it is being stopped.
    ``foreign``: whether the lock is another user's; then only ``owner`` is known.
    ``gone``: answer to a stop: the run has ended. ``alive``: descriptions of processes that could not be ended.
    ``other``: answer to a stop that named another run.
    ``error``: why the supervisor gives no answer; None if it answers.
    ``version``: protocol version of the supervisor; 0 for one that predates version numbers.
    """

    run_id: str | None = of(maybe(text(100)), default=None)
    attempt: int | None = of(maybe(ATTEMPT), default=None)
    owner: str | None = of(maybe(text(256)), default=None)
    workload: str | None = of(maybe(text()), default=None)
    age: float | None = of(maybe(number()), default=None)
    stopping: bool = of(flag, default=False)
    foreign: bool = of(flag, default=False)
    gone: bool = of(flag, default=False)
    other: bool = of(flag, default=False)
    alive: tuple[str, ...] = of(WORDS, default=())
    error: str | None = of(maybe(text()), default=None)
    version: int = of(whole(), default=0)


class Stopped(Message):
    """The answer to ``Stop``.

    ``ended``: ids of the runs that ended; for another user's run, its owner in words.
    ``refused``: the lock's holder, if it is another user's or does not answer; else None.
    ``killed``: how many processes without a supervisor were ended.
    ``alive``: descriptions of the processes that could not be ended.
    """

    ended: tuple[str, ...] = of(many(text(256), 10_000))
    refused: Holder | None = of(maybe(Holder.from_wire))
    killed: int = of(whole(0, 1 << 22))
    alive: tuple[str, ...] = of(WORDS)


class ListRuns(Message):
    """Sent by the control side: list the runs that have processes on this node; answered by ``RunsHere``.

    ``run_id``: list this run only; None for all. ``ended``: whether to list ended runs, too.
    """

    VERB: ClassVar[str] = "runs"

    run_id: str | None = of(maybe(RUN_ID))
    ended: bool = of(flag)


# States of a node's part of a run; ``RunHere`` explains them.
STATES = ("left over", "not answering", "lost", "failed", "stopping", "running", "stopped", "ok", "rebooted")


class RunHere(Message):
    """A node's part of a run, described by the run's newest attempt on the node.

    ``state``: ``running`` or ``stopping``; ``ok``, ``failed`` or ``stopped`` by how the attempt ended;
    ``left over`` if processes but no supervisor are left; ``not answering`` if the supervisor does not answer;
    ``lost`` if the supervisor is gone and recorded no end, or ``rebooted`` if the node was rebooted since.
    ``workload``, ``owner``, ``node``, ``nodes``, ``node_rank``, ``first_rank``, ``nproc`` and ``min_nodes``: as in
    ``Start``; None if ``run.json`` is gone or does not have them.
    ``leftovers``: number of processes without a supervisor.
    ``last_line``: last line that a rank printed here, at most 500 characters; None if no rank printed anything.
    ``began`` and ``ended``: seconds since the epoch by the node's clock; None if not recorded, or not yet ended.
    ``exit_code``: torchrun's; None if it has not ended or a signal ended it.
    """

    run_id: str = of(RUN_ID)
    attempt: int = of(ATTEMPT)
    state: str = of(one_of(*STATES))
    workload: str | None = of(maybe(text()), default=None)
    owner: str | None = of(maybe(text(256)), default=None)
    node: str | None = of(maybe(NAME), default=None)
    nodes: tuple[str, ...] | None = of(maybe(many(NAME, 10_000)), default=None)
    node_rank: int | None = of(maybe(NODE_RANK), default=None)
    first_rank: int | None = of(maybe(RANK), default=None)
    nproc: int | None = of(maybe(LOCAL_RANK), default=None)
    min_nodes: int | None = of(maybe(NODE_RANK), default=None)
    leftovers: int = of(whole(0, 1 << 22))
    last_line: str | None = of(maybe(text(2048)), default=None)
    began: float | None = of(maybe(TIME), default=None)
    ended: float | None = of(maybe(TIME), default=None)
    exit_code: int | None = of(EXIT_CODE, default=None)


class RunsHere(Message):
    """The answer to ``ListRuns``.

    ``runs``: the node's parts of runs. ``time``: the node's clock, in seconds since the epoch.
    """

    runs: tuple[RunHere, ...] = of(many(RunHere.from_wire, 20_000))
    time: float = of(TIME)


class Question(Message):
    """Base class of the questions to a supervisor at the lock's door, asked by the node program."""


class AskStatus(Question):
    """Ask which run holds the lock; answered by a ``Holder``."""

    op: str = of(one_of("status"), default="status")


class AskStop(Question):
    """Ask the supervisor to end its run; answered by a ``Holder`` when no process of the run is left.

    ``run_id``: do so only for this run; None for any. ``grace``: how long processes may take to end, in seconds.
    """

    op: str = of(one_of("stop"), default="stop")
    run_id: str | None = of(maybe(text(100)))
    grace: float = of(number(0, LONGEST_GRACE))


QUESTION = tagged("op", {"status": AskStatus, "stop": AskStop})
