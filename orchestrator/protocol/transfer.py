"""Bring trees, data and environments to a node, and outputs back: requests and answers, verb by verb."""

from __future__ import annotations

from .message import Message, of
from .shapes import flag, many, maybe, one_of, row, text, whole
from .terms import ADDRESS, ADDRESSES, BYTES, DISK_ID, PATH, PATHS, PORT, RUN_ID, SHA, TOKEN, TREE_ID
from .tree import ROWS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from .tree import Row

KEY = TREE_ID
# Index of a file in the list of entries, and how many of its bytes are there, or the first that is to come.
POSITIONS = many(row(whole(), BYTES), 10_000_000)


class Store(Message):
    """Make a synced tree of what is here and what is sent; with ``look`` only say what is here.

    The node answers with ``Stock`` and, if there is a base, its entries as a data frame. The control machine sends
    a ``Change`` as a data frame, receives ``MissingBlobs``, sends their bytes in that order, and receives
    ``Stored``. Data frames that hold lists are deflated JSON.
    """

    VERB: ClassVar[str] = "store"
    workdir: str = of(PATH)
    project: str = of(PATH)
    tree: str = of(TREE_ID)
    look: bool = of(flag)


class Stock(Message):
    """Whether the tree is here, the id of the disk it is on, and the tree that was synced last."""

    have: bool = of(flag)
    place: str | None = of(maybe(DISK_ID))
    base: str | None = of(maybe(TREE_ID))


class Change(Message):
    """From the base's entries to the tree's: paths that go, entries that come or differ."""

    removed: tuple[str, ...] = of(PATHS)
    entries: tuple[Row, ...] = of(ROWS)


class MissingBlobs(Message):
    """The contents that are not here: SHA-256, mode, size in bytes."""

    wanted: tuple[tuple[str, int, int], ...] = of(many(row(SHA, whole(0, 0o7777), BYTES), 10_000_000))


class Stored(Message):
    """The tree is in place."""

    stored: str = of(TREE_ID)


class Verify(Message):
    """Read every file of a tree again."""

    VERB: ClassVar[str] = "verify"
    workdir: str = of(PATH)
    project: str = of(PATH)
    tree: str = of(TREE_ID)


class Verified(Message):
    """How a tree differs from its list."""

    changed: tuple[str, ...] = of(PATHS)
    missing: tuple[str, ...] = of(PATHS)
    added: tuple[str, ...] = of(PATHS)


class ListUsed(Message):
    """Name the trees and environments that living runs of this host use."""

    VERB: ClassVar[str] = "used"


class Used(Message):
    """Names of folders."""

    used: tuple[str, ...] = of(many(text(256), 100_000))


class Prune(Message):
    """Remove all but the ``keep`` newest trees and environments, with ``runs`` ended runs, too; never ``used``."""

    VERB: ClassVar[str] = "prune"
    workdir: str = of(PATH)
    keep: int = of(whole(0, 1 << 20))
    runs: bool = of(flag)
    used: tuple[str, ...] = of(many(text(256), 1_000_000))


class Pruned(Message):
    """How many were removed, and the bytes that they held."""

    trees: int = of(BYTES)
    environments: int = of(BYTES)
    blobs: int = of(BYTES)
    runs: int = of(BYTES)
    bytes: int = of(BYTES)


class SharedDiskToken(Message):
    """``write``, ``look`` for, or ``remove`` a token, by which hosts that share a disk know each other."""

    VERB: ClassVar[str] = "token"
    workdir: str = of(PATH)
    token: str = of(TOKEN)
    op: str = of(one_of("write", "look", "remove"))


class TokenSeen(Message):
    """Whether the token is there now."""

    there: bool = of(flag)


class Relay(Message):
    """Receive data below ``root`` and pass it on to the next node; with ``look`` only say what is lacking.

    The entries follow as a data frame of deflated JSON. The node answers with ``RelayStatus``, then answers
    ``Listen`` with ``ListeningAt``, and ``PassOn`` with ``NextNodeState``, periodic ``Progress`` and ``Received``.
    The data are the files that ``PassOn`` names, in that order, from the previous node or as data frames.
    """

    VERB: ClassVar[str] = "relay"
    workdir: str = of(PATH)
    root: str = of(PATH)
    look: bool = of(flag)


class RelayStatus(Message):
    """What is not here: indexes of entries with the bytes of each that are; this node's addresses, SSH's first."""

    place: str | None = of(maybe(DISK_ID))
    addresses: tuple[tuple[str, str, int], ...] = of(ADDRESSES)
    lacking: tuple[tuple[int, int], ...] = of(POSITIONS)


class Listen(Message):
    """Listen at these addresses and nowhere else."""

    listen: tuple[str, ...] = of(many(ADDRESS))


class ListeningAt(Message):
    """Where this node listens."""

    port: int = of(PORT)


class NextNode(Message):
    """The next node of the chain, and the token that lets this one in there."""

    addresses: tuple[str, ...] = of(many(ADDRESS))
    port: int = of(PORT)
    token: str = of(text(256))


class PassOn(Message):
    """Let whoever knows ``token`` in; take ``files`` from their first bytes on, and send them to ``next``."""

    token: str = of(text(256))
    next: NextNode | None = of(maybe(NextNode.from_wire))
    files: tuple[tuple[int, int], ...] = of(POSITIONS)


class NextNodeState(Message):
    """``ok``, None for the last node, or why the next one cannot be reached."""

    next: str | None = of(maybe(text()))


class Progress(Message):
    """So many bytes of the data have come."""

    at: int = of(BYTES)


class Received(Message):
    """The transfer has ended. ``damaged``: files whose hash is wrong; ``next`` as in ``NextNodeState``."""

    done: bool = of(flag)
    complete: bool = of(flag)
    damaged: tuple[str, ...] = of(PATHS)
    next: str | None = of(maybe(text()))


class BuildEnvironment(Message):
    """Build an environment of these requirements; ``key`` is what the control side calls it.

    Answered by ``Ready``, or by ``Base``; then ``Wheels`` lets it build, answered by ``Said`` for each line of pip
    or uv, and ``Ready`` or ``BuildFailed``.
    """

    VERB: ClassVar[str] = "environment"
    workdir: str = of(PATH)
    key: str = of(KEY)
    requirements: str = of(text(1 << 20))
    python: str | None = of(maybe(PATH))


class Ready(Message):
    """The environment is there."""

    ready: str = of(PATH)


class Base(Message):
    """What an environment would be built upon: the shared disk's id, and what wheels must fit."""

    ready: None = of(maybe(one_of(None)))
    place: str | None = of(maybe(DISK_ID))
    version: str = of(text(64))
    machine: str = of(text(64))
    libc: str = of(text(64))


class Wheels(Message):
    """Build from a folder of wheels on the node, or with None from what it reaches."""

    wheels: str | None = of(maybe(PATH))


class Said(Message):
    """A line of pip or uv."""

    line: str = of(text())


class BuildFailed(Message):
    """The last words of pip or uv, and whether it seems to lack a way to the packages."""

    failed: tuple[str, ...] = of(many(text()))
    offline: bool = of(flag)


class Collect(Message):
    """Send back what a run wrote: ``Offered``, then ``Chosen`` is answered by the files and ``AllSent``.

    For each file comes ``Sending`` and its bytes as data frames, or ``Skipped``, also in the middle of a file that
    became shorter.
    """

    VERB: ClassVar[str] = "collect"
    run_id: str = of(RUN_ID)


class Offered(Message):
    """What is new or changed below ``work``: path, bytes, time of change in ns, target of a link or None."""

    work: str = of(PATH)
    files: tuple[tuple[str, int, int, str | None], ...] = of(
        many(row(PATH, BYTES, whole(-(1 << 62), 1 << 62), maybe(PATH)), 1_000_000)
    )


class Chosen(Message):
    """The files that are wanted: path and bytes."""

    files: tuple[tuple[str, int], ...] = of(many(row(PATH, BYTES), 1_000_000))


class Sending(Message):
    """A file comes."""

    path: str = of(PATH)
    size: int = of(BYTES)
    mode: int = of(whole(0, 0o7777))


class Skipped(Message):
    """A file does not come, or no more of it."""

    path: str = of(PATH)
    skipped: str = of(text(256))


class AllSent(Message):
    """No more files come."""

    done: bool = of(one_of(True))
