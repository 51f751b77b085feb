"""Entries in a user's SSH files on a node: which ones are wanted there, what changed, and what the node records.

An entry is one or more whole lines of a file of ``~/.ssh``. Each belongs to a purpose, ``login <key>`` or
``between <cluster>/<node>``, by which it is replaced or removed later.
"""

from __future__ import annotations

from .message import Message, of
from .shapes import flag, many, maybe, one_of, table, text, whole, word
from .terms import SHA

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

AUTHORIZED_KEYS, KNOWN_HOSTS, CONFIG = FILES = ("authorized_keys", "known_hosts", "config")
LOGIN, BETWEEN = KINDS = ("login", "between")
# The key with which a node logs in to the others, in ~/.ssh there.
BETWEEN_KEY = "id_ed25519_orch"

_FILE = one_of(*FILES)
_PURPOSE = word(r"(login|between) [!-~]{1,250}")
_ENTRIES = many(text(1 << 16), 10_000)
# It goes into files of other nodes, so nothing but the comment is free, and no newline is in it.
_PUBLIC = word(r"ssh-ed25519 [A-Za-z0-9+/]{40,100}={0,2}( [ -~]{0,200})?")
_MODE = whole(0, 0o7777)


class ArrangeKeys(Message):
    """Sent by the control side: state which entries the files should have; answered by ``KeysArranged``.

    ``entries``: for each purpose, all its entries by file; entries that the node recorded for the purpose and that
    are not among these are removed.
    ``drop``: kind of the purposes whose entries are all removed, unless the purpose is in ``entries``.
    ``key``: whether to make or remove the key for logins between nodes; None leaves it.
    ``write``: whether to change anything; if not, the answer tells what would change.
    """

    VERB: ClassVar[str] = "keys"
    entries: dict[str, dict[str, tuple[str, ...]]] = of(table(table(_ENTRIES, 3, _FILE), 10_000, _PURPOSE))
    drop: str | None = of(maybe(one_of(*KINDS)), default=None)
    key: str | None = of(maybe(one_of("make", "remove")), default=None)
    write: bool = of(flag)


class FileChange(Message):
    """What changed in one file.

    ``added`` and ``removed``: numbers of entries. ``absent``: entries that were to be removed and that somebody
    else had removed or changed before. ``made`` and ``deleted``: of the file. ``mode``: its new mode; None if the
    mode is unchanged. ``others``: the file no longer holds what it held before orch changed it, because somebody
    else changed it meanwhile, so only orch's entries were removed.
    """

    added: int = of(whole(), default=0)
    removed: int = of(whole(), default=0)
    absent: int = of(whole(), default=0)
    made: bool = of(flag, default=False)
    deleted: bool = of(flag, default=False)
    mode: int | None = of(maybe(_MODE), default=None)
    others: bool = of(flag, default=False)


class KeysArranged(Message):
    """The answer to ``ArrangeKeys``.

    ``home``: equal on nodes that share a home folder. ``public``: public half of the key for logins between
    nodes; None if there is none. ``key_made`` and ``key_removed``: whether that key was, or would be.
    ``files``: changes, by the name of the file. ``doubts``: reasons why sshd may ignore the files.
    """

    home: str = of(text(256))
    public: str | None = of(maybe(_PUBLIC))
    key_made: bool = of(flag, default=False)
    key_removed: bool = of(flag, default=False)
    files: dict[str, FileChange] = of(table(FileChange.from_wire, 3, _FILE))
    doubts: tuple[str, ...] = of(many(text(1024), 16), default=())


class Before(Message):
    """A file or folder before orch changed it. ``sha256``: of a file. ``mode``: None if there was none."""

    sha256: str | None = of(maybe(SHA), default=None)
    mode: int | None = of(maybe(_MODE))


class FileRecord(Message):
    """The node's record of one file. ``entries``: those that orch added, by purpose. ``mode``: the one it set."""

    before: Before = of(Before.from_wire)
    mode: int = of(_MODE)
    entries: dict[str, tuple[str, ...]] = of(table(_ENTRIES, 10_000, _PURPOSE))


class KeysRecord(Message):
    """The node's record, ``~/.orch/keys.json``. ``folder``: ``~/.ssh``, if orch changed it. ``key``: as made."""

    files: dict[str, FileRecord] = of(table(FileRecord.from_wire, 3, _FILE), default={})
    folder: Before | None = of(maybe(Before.from_wire), default=None)
    key: bool = of(flag, default=False)
