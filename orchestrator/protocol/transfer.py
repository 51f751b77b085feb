"""Bring trees, data and environments to a node, and outputs back: requests and answers of each verb."""

from __future__ import annotations

from .message import Message, of
from .shapes import flag, many, maybe, one_of, row, text, whole
from .terms import ADDRESS, ADDRESSES, BYTES, DISK_ID, PATH, PATHS, PORT, RUN_ID, SHA, TOKEN, TREE_ID
from .tree import ROWS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from .tree import Row

# Ids of environments look like those of trees.
KEY = TREE_ID
# Rows of a file's index in the list of entries, and a position in the file: in ``lacking``, how many of its bytes
# are there; in ``files``, the first byte to come.
POSITIONS = many(row(whole(), BYTES), 10_000_000)


class Store(Message):
    """Sent by the control side: make a synced tree from what is on the node and what is sent.

    The node answers with ``Stock`` and, if that names a base, the base's entries as a data frame. If the node has
    the tree, or with ``look``, that is all. Otherwise the control side sends a ``Change`` as a data frame, the
    node answers with ``MissingBlobs``, the control side sends their bytes in that order as data frames, and the
    node answers with ``Stored``. Data frames that hold lists are deflated JSON.

    ``workdir``: folder for synced trees. ``project``: project of the tree. ``tree``: its id.
    ``look``: whether only to report what is on the node.
    """

    VERB: ClassVar[str] = "store"
    workdir: str = of(PATH)
    project: str = of(PATH)
    tree: str = of(TREE_ID)
    look: bool = of(flag)


class Stock(Message):
    """First answer to ``Store``.

    ``have``: whether the node has the tree. ``disk_id``: the id of the workdir's disk; None with ``look``.
    ``base``: id of the tree whose entries follow: the tree itself, or else the one of this project that was synced
    last; None if there is none.
    """

    have: bool = of(flag)
    disk_id: str | None = of(maybe(DISK_ID))
    base: str | None = of(maybe(TREE_ID))


class Change(Message):
    """Sent by the control side: how the tree's entries differ from the base's.

    ``removed``: paths in the base only. ``entries``: entries that are new or differ.
    """

    removed: tuple[str, ...] = of(PATHS)
    entries: tuple[Row, ...] = of(ROWS)


class MissingBlobs(Message):
    """Second answer to ``Store``, after ``Change``.

    ``wanted``: SHA-256, permission bits and size in bytes of each blob that the node lacks.
    """

    wanted: tuple[tuple[str, int, int], ...] = of(many(row(SHA, whole(0, 0o7777), BYTES), 10_000_000))


class Stored(Message):
    """Last answer to ``Store``: the tree is in place. ``stored``: its id."""

    stored: str = of(TREE_ID)


class Verify(Message):
    """Sent by the control side: read every file of a tree again and compare it; answered by ``Verified``.

    ``workdir``, ``project`` and ``tree``: as in ``Store``.
    """

    VERB: ClassVar[str] = "verify"
    workdir: str = of(PATH)
    project: str = of(PATH)
    tree: str = of(TREE_ID)


class Verified(Message):
    """The answer to ``Verify``: how the tree differs from the list of its entries.

    ``changed``, ``missing`` and ``added``: paths of files and links.
    """

    changed: tuple[str, ...] = of(PATHS)
    missing: tuple[str, ...] = of(PATHS)
    added: tuple[str, ...] = of(PATHS)


class ListUsed(Message):
    """Sent by the control side: name what running runs of this host use; answered by ``Used``."""

    VERB: ClassVar[str] = "used"


class Used(Message):
    """The answer to ``ListUsed``. ``used``: ids of trees, and parts of paths that name environments."""

    used: tuple[str, ...] = of(many(text(256), 100_000))


class Prune(Message):
    """Sent by the control side: remove old trees, environments and blobs; answered by ``Pruned``.

    ``workdir``: folder to prune. ``keep``: how many trees of each project, and environments, stay, the newest.
    ``runs``: whether to remove ended runs, too, all but the ``keep`` newest.
    ``used``: what runs of any host that may share the disk use, as in ``Used``; never removed.
    """

    VERB: ClassVar[str] = "prune"
    workdir: str = of(PATH)
    keep: int = of(whole(0, 1 << 20))
    runs: bool = of(flag)
    used: tuple[str, ...] = of(many(text(256), 1_000_000))


class Pruned(Message):
    """The answer to ``Prune``.

    ``trees``, ``environments``, ``blobs`` and ``runs``: how many of each were removed.
    ``bytes``: size of the removed blobs, environments and runs.
    """

    trees: int = of(BYTES)
    environments: int = of(BYTES)
    blobs: int = of(BYTES)
    runs: int = of(BYTES)
    bytes: int = of(BYTES)


class SharedDiskToken(Message):
    """Sent by the control side to find out which nodes share a disk; answered by ``TokenSeen``.

    ``workdir``: folder on the disk. ``token``: name of the token.
    ``op``: ``write`` it, ``look`` for it, or ``remove`` it. A node that looks in vain drops its disk's id, which
    must be a copy.
    """

    VERB: ClassVar[str] = "token"
    workdir: str = of(PATH)
    token: str = of(TOKEN)
    op: str = of(one_of("write", "look", "remove"))


class TokenSeen(Message):
    """The answer to ``SharedDiskToken``. ``there``: whether the token exists after the operation."""

    there: bool = of(flag)


class Relay(Message):
    """Sent by the control side: receive data below a folder and pass it on to the next node of the chain.

    The entries follow as a data frame of deflated JSON. The node answers with ``RelayStatus``; with ``look``, that
    is all. Otherwise it answers ``Listen`` with ``ListeningAt``, and ``PassOn`` with ``NextNodeState``, periodic
    ``Progress`` and, at the end, ``Received``. The data are the files that ``PassOn`` names, in that order, from
    the previous node or as data frames of the control side.

    ``workdir``: the workdir, for orch's own records. ``root``: folder of the data.
    ``look``: whether only to report which files are incomplete.
    """

    VERB: ClassVar[str] = "relay"
    workdir: str = of(PATH)
    root: str = of(PATH)
    look: bool = of(flag)


class RelayStatus(Message):
    """First answer to ``Relay``.

    ``disk_id``: the id of the workdir's disk; None with ``look``, or if ``root`` is not below the workdir.
    ``addresses``: interface, address and prefix length of each address, the one that SSH came in on first; empty
    with ``look``.
    ``lacking``: index of each file that is incomplete, and how many of its bytes are there; 0 with ``look``.
    """

    disk_id: str | None = of(maybe(DISK_ID))
    addresses: tuple[tuple[str, str, int], ...] = of(ADDRESSES)
    lacking: tuple[tuple[int, int], ...] = of(POSITIONS)


class Listen(Message):
    """Sent by the control side: listen for the previous node; answered by ``ListeningAt``.

    ``listen``: numeric addresses, and no others; as in ``ListenFor``.
    """

    listen: tuple[str, ...] = of(many(ADDRESS))


class ListeningAt(Message):
    """The answer to ``Listen``. ``port``: the TCP port."""

    port: int = of(PORT)


class NextNode(Message):
    """The next node of the chain.

    ``addresses``: its addresses, in the order in which to try them. ``port``: where it listens.
    ``token``: secret that it demands.
    """

    addresses: tuple[str, ...] = of(many(ADDRESS))
    port: int = of(PORT)
    token: str = of(text(256))


class PassOn(Message):
    """Sent by the control side: receive these files and pass them on.

    ``token``: secret that the previous node presents. ``next``: the next node; None for the last one.
    ``files``: index of each file that will come, and its first byte that will.
    """

    token: str = of(text(256))
    next: NextNode | None = of(maybe(NextNode.from_wire))
    files: tuple[tuple[int, int], ...] = of(POSITIONS)


class NextNodeState(Message):
    """First answer to ``PassOn``.

    ``next``: ``ok``, or why the next node cannot be reached; None for the last node of the chain.
    """

    next: str | None = of(maybe(text()))


class Progress(Message):
    """Further answer to ``PassOn``. ``at``: bytes of the data received so far."""

    at: int = of(BYTES)


class Received(Message):
    """Last answer to ``PassOn``: the transfer has ended.

    ``done``: always true; it tells this message from ``Progress``. ``complete``: whether all data came.
    ``damaged``: paths of files whose hash is wrong.
    ``next``: ``ok``, or why the next node did not get everything; None for the last node of the chain.
    """

    done: bool = of(flag)
    complete: bool = of(flag)
    damaged: tuple[str, ...] = of(PATHS)
    next: str | None = of(maybe(text()))


class BuildEnvironment(Message):
    """Sent by the control side: build an environment unless it exists.

    Answered by ``Ready`` if it exists, else by ``Base``. Then the control side sends ``Wheels``, and the node
    answers with ``Said`` for each line of pip or uv, and ``Ready`` or ``BuildFailed``.

    ``workdir``: folder for environments. ``key``: id by which the control side finds the environment.
    ``requirements``: text of the requirements file. ``python``: the interpreter; None for ``python3``.
    """

    VERB: ClassVar[str] = "environment"
    workdir: str = of(PATH)
    key: str = of(KEY)
    requirements: str = of(text(1 << 20))
    python: str | None = of(maybe(PATH))


class Ready(Message):
    """Answer to ``BuildEnvironment``: the environment exists. ``ready``: its folder."""

    ready: str = of(PATH)


class Base(Message):
    """First answer to ``BuildEnvironment`` if the environment must be built: what its wheels must fit.

    ``ready``: always None; it tells this message from ``Ready``. ``disk_id``: the id of the workdir's disk.
    ``version``: of Python, ``3.11.2``. ``machine``: the architecture. ``libc``: as in ``System``.
    """

    ready: None = of(maybe(one_of(None)))
    disk_id: str | None = of(maybe(DISK_ID))
    version: str = of(text(64))
    machine: str = of(text(64))
    libc: str = of(text(64))


class Wheels(Message):
    """Sent by the control side: build the environment.

    ``wheels``: folder of wheels on the node to install from; None to install from the package index.
    """

    wheels: str | None = of(maybe(PATH))


class Said(Message):
    """Answer to ``Wheels``. ``line``: a line of pip or uv, at most 300 characters."""

    line: str = of(text())


class BuildFailed(Message):
    """Last answer to ``Wheels`` if the build failed.

    ``failed``: last lines of pip or uv. ``offline``: whether the package index seems out of reach.
    """

    failed: tuple[str, ...] = of(many(text()))
    offline: bool = of(flag)


class Collect(Message):
    """Sent by the control side: send back what a run wrote.

    The node answers with ``Offered``. The control side sends ``Chosen``; for each of its files the node sends
    ``Sending`` and the bytes as data frames, or ``Skipped``, which may also come in the middle of a file that
    became shorter. ``AllSent`` ends the answer.

    ``run_id``: the run.
    """

    VERB: ClassVar[str] = "collect"
    run_id: str = of(RUN_ID)


class Offered(Message):
    """First answer to ``Collect``.

    ``work``: the working folder.
    ``files``: each new or changed file below it: path, size in bytes, modification time in nanoseconds since the
    epoch, and the target of a link or None.
    """

    work: str = of(PATH)
    files: tuple[tuple[str, int, int, str | None], ...] = of(
        many(row(PATH, BYTES, whole(-(1 << 62), 1 << 62), maybe(PATH)), 1_000_000)
    )


class Chosen(Message):
    """Sent by the control side: send these files.

    ``files``: path, and how many bytes of the file to send: those it was offered with.
    """

    files: tuple[tuple[str, int], ...] = of(many(row(PATH, BYTES), 1_000_000))


class Sending(Message):
    """A file begins.

    ``path``: as in ``Offered``. ``size``: how many bytes follow. ``mode``: permission bits.
    """

    path: str = of(PATH)
    size: int = of(BYTES)
    mode: int = of(whole(0, 0o7777))


class Skipped(Message):
    """A file is not sent, or not to its end. ``path``: as in ``Offered``. ``skipped``: the reason."""

    path: str = of(PATH)
    skipped: str = of(text(256))


class AllSent(Message):
    """Last answer to ``Collect``: no more files follow. ``done``: always true; it tells this from ``Sending``."""

    done: bool = of(one_of(True))
