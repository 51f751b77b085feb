"""Start a run on a node, follow it, end it, list what runs: requests, answers, and the frames of ``follow``."""

from __future__ import annotations

from .events import OF_NODES, Event
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

# Of a stop, in seconds: a week.
LONGEST_GRACE = 7 * 86400.0
VARIABLES = table(text(1 << 20), 65536, text(4096))


class CutOff(Message):
    """End the attempt after ``after`` seconds in which neither the control machine nor a peer is heard.

    ``peers`` are SSH servers of the other nodes: address and port.
    """

    after: float = of(SECONDS)
    peers: tuple[tuple[str, int], ...] = of(many(row(ADDRESS, PORT), 10_000))


class Start(Message):
    """Start one attempt on this node and follow it; answered by ``Started`` and then as ``Follow`` is.

    ``tree`` is the synced tree that the working folder is copied from, ``overlays`` trees laid over it, ``cwd``
    where torchrun starts in it. ``files`` (path -> text) are what the launcher reads. ``first_rank`` is None where
    torchrun hands out the ranks, ``min_nodes`` where no node may be missing. ``grace`` in seconds, ``log_limit``
    in bytes. ``on_disconnect``: after how many seconds without a control machine the attempt is ended; None for
    never.
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


class Kept(Message):
    """``run.json``: what a node remembers of an attempt. No environment and no arguments: those may be secrets.

    ``program`` is the command's first word only; ``boot_id`` tells whether the machine was started anew since.
    ``version``: the protocol's; 0 for what was written before there was one.
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
    """Send an attempt's events and logs (``attempt`` None: the newest here) from where they were left.

    ``offsets``: bytes that were received of each stream, and under ``events`` how many events. ``ranks``: only
    these, and nothing of torchrun's own. ``since``: what was printed in the last so many seconds. ``wait`` False:
    end when all there is has been sent. ``tail``: of streams without an offset only the last so many bytes.
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
    """A frame of ``follow``; ``type`` says which."""

    TYPE: ClassVar[str] = ""

    def to_wire(self) -> dict[str, object]:
        """The JSON object, with its type."""
        return {"type": self.TYPE, **super().to_wire()}


class Started(Told):
    """The supervisor is there, torchrun about to start."""

    TYPE: ClassVar[str] = "started"


class Following(Told):
    """The attempt is found; ``time`` is this node's clock."""

    TYPE: ClassVar[str] = "following"
    time: float = of(TIME)


class Stream(Told):
    """Log frames with ``id`` belong to stream ``name``: ``torchrun``, or a worker's as ``frames.stream_name`` has
    it.

    ``first``: the byte it begins with, where an earlier part is not to be had.
    """

    TYPE: ClassVar[str] = "stream"
    id: int = of(whole(0, 65535))
    name: str = of(text(64))
    rank: int | None = of(maybe(RANK), default=None)
    local_rank: int | None = of(maybe(LOCAL_RANK), default=None)
    restart: int = of(RESTART, default=0)
    first: int = of(BYTES, default=0)


class Sample(Message):
    """How busy the node is: ``cpu`` as a share of all cores, memory in bytes, GPUs as (busy, used, total)."""

    cpu: float = of(number(0, 1e6))
    memory_used: int = of(whole())
    memory_total: int = of(whole())
    gpus: tuple[tuple[float, int, int], ...] = of(many(row(number(0, 100), BYTES, BYTES), 1024))


class Beat(Told):
    """The node is there; sent every two seconds."""

    TYPE: ClassVar[str] = "beat"
    time: float = of(TIME)
    sample: Sample | None = of(maybe(Sample.from_wire), default=None)


class Journaled(Told):
    """An event of the node's journal."""

    TYPE: ClassVar[str] = "event"
    event: Event = of(tagged("event", OF_NODES))


class SupervisorGone(Told):
    """The supervisor is no more and recorded no end. ``rebooted``: nor is anything else of the run."""

    TYPE: ClassVar[str] = "orphaned"
    rebooted: bool = of(flag, default=False)


class End(Told):
    """All has been sent."""

    TYPE: ClassVar[str] = "end"


FOLLOWED = tagged("type", {each.TYPE: each for each in (Following, Stream, Beat, Journaled, SupervisorGone, End)})


class Stop(Message):
    """End a run within ``grace`` seconds, or with None whatever runs here; answered when nothing of it is left."""

    VERB: ClassVar[str] = "stop"

    run_id: str | None = of(maybe(RUN_ID))
    grace: float = of(SECONDS)


class Holder(Message):
    """Who holds a host's lock. ``error``: its supervisor does not answer; ``foreign``: it is another user's."""

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
    """The runs that were ``ended``, who ``refused``, how many leftovers were ``killed``, what is still
    ``alive``."""

    ended: tuple[str, ...] = of(many(text(256), 10_000))
    refused: Holder | None = of(maybe(Holder.from_wire))
    killed: int = of(whole(0, 1 << 22))
    alive: tuple[str, ...] = of(WORDS)


class ListRuns(Message):
    """List what runs here and what is left over; with ``ended`` also what ran. ``run_id`` None: of all runs."""

    VERB: ClassVar[str] = "runs"

    run_id: str | None = of(maybe(RUN_ID))
    ended: bool = of(flag)


STATES = ("left over", "not answering", "lost", "failed", "stopping", "running", "stopped", "ok", "rebooted")


class RunHere(Message):
    """A node's part of a run, as its newest attempt there has it. Times are the node's own."""

    run_id: str = of(RUN_ID)
    attempt: int = of(ATTEMPT)
    state: str = of(one_of(*STATES))
    workload: str | None = of(maybe(text()), default=None)
    owner: str | None = of(maybe(text(256)), default=None)
    node: str | None = of(maybe(NAME), default=None)
    nodes: tuple[str, ...] | None = of(maybe(many(NAME, 10_000)), default=None)
    node_rank: int | None = of(maybe(NODE_RANK), default=None)
    first_rank: int | None = of(maybe(RANK), default=None)
    nproc: int | None = of(maybe(NODE_RANK), default=None)
    min_nodes: int | None = of(maybe(NODE_RANK), default=None)
    leftovers: int = of(whole(0, 1 << 22))
    last_line: str | None = of(maybe(text(2048)), default=None)
    began: float | None = of(maybe(TIME), default=None)
    ended: float | None = of(maybe(TIME), default=None)
    exit_code: int | None = of(EXIT_CODE, default=None)


class RunsHere(Message):
    """The answer to ``ListRuns``; ``time`` is this node's clock."""

    runs: tuple[RunHere, ...] = of(many(RunHere.from_wire, 20_000))
    time: float = of(TIME)


class Question(Message):
    """What the supervisor is asked through the lock's door."""


class AskStatus(Question):
    """Tell what runs; answered by a ``Holder``."""

    op: str = of(one_of("status"), default="status")


class AskStop(Question):
    """End the run within ``grace`` seconds, whichever it is if ``run_id`` is None; answered when it is gone."""

    op: str = of(one_of("stop"), default="stop")
    run_id: str | None = of(maybe(text(100)))
    grace: float = of(number(0, LONGEST_GRACE))


QUESTION = tagged("op", {"status": AskStatus, "stop": AskStop})
