"""The stacks of a run's ranks."""

from __future__ import annotations

from ..message import Message, of
from ..shapes import flag, many, maybe, text, whole
from ..terms import LOCAL_RANK, PATH, PID, RANK, RUN_ID, SHA

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class Frame(Message):
    """A function that has been called and has not returned: its name, its file's path, and the line it is at."""

    name: str = of(text(4096))
    file: str = of(PATH)
    line: int = of(whole())


class Thread(Message):
    """A thread of a rank. ``main``: whether it is the process's first. ``frames``: the innermost first."""

    name: str = of(text(256))
    main: bool = of(flag)
    frames: tuple[Frame, ...] = of(many(Frame.from_wire, 10_000))


class RankStack(Message):
    """The threads of a rank, or the reason why they could not be read."""

    rank: int = of(RANK)
    local_rank: int = of(LOCAL_RANK)
    pid: int = of(PID)
    threads: tuple[Thread, ...] = of(many(Thread.from_wire, 10_000), default=())
    error: str | None = of(maybe(text()), default=None)


class AskStacks(Message):
    """Sent by the control side: tell what this node's ranks of a run are doing; answered by ``StacksHere``.

    ``tool``: path of py-spy, below ``workdir`` if it was sent; None for the node's own. ``sha``: its SHA-256.
    ``machine``: the kind of processor that it is for.
    ``python``: the training interpreter, beside which the node's own py-spy may be.
    ``native``: also tell the frames of compiled code.
    """

    VERB: ClassVar[str] = "stacks"
    run_id: str = of(RUN_ID)
    workdir: str = of(PATH)
    tool: str | None = of(maybe(PATH), default=None)
    sha: str | None = of(maybe(SHA), default=None)
    machine: str | None = of(maybe(text(64)), default=None)
    python: str | None = of(maybe(PATH), default=None)
    native: bool = of(flag, default=False)


class StacksHere(Message):
    """The answer to ``AskStacks``: the ranks of the run that have a process here. ``error``: why none is told."""

    ranks: tuple[RankStack, ...] = of(many(RankStack.from_wire, 65536), default=())
    error: str | None = of(maybe(text()), default=None)
