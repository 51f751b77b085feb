"""A folder as a value: its files, their hashes, and one tree id.

The tree id is the SHA-256 over every entry's path, kind, mode and content hash, so two folders have the same id
exactly when a script would find the same in them. Modes of folders and times of files do not count.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pathspec import GitIgnoreSpec

from orchestrator.errors import SyncError
from orchestrator.protocol.tree import tree_id

if TYPE_CHECKING:
    from orchestrator.protocol.tree import Row

IGNORE_FILES = (".gitignore", ".orchignore")
# No script needs any of these to run.
ALWAYS_IGNORED = (".git/", "__pycache__/", "*.pyc", ".orch/")


@dataclass(frozen=True)
class Entry:
    """One entry of a tree. ``kind`` is ``file``, ``link`` or ``dir`` (an empty folder).

    ``about`` is the SHA-256 of a file's bytes, or a link's target.
    """

    path: str
    kind: str
    mode: int
    size: int
    about: str

    @property
    def row(self) -> Row:
        """The entry as a row of a list of entries."""
        return self.path, self.kind, self.mode, self.size, self.about


@dataclass(frozen=True)
class LocalTree:
    """The entries of a folder, sorted by path. ``root`` is where their bytes are."""

    root: Path
    entries: tuple[Entry, ...]
    tree_id: str

    @property
    def size(self) -> int:
        """Total size of all files, in bytes."""
        return sum(entry.size for entry in self.entries)


@dataclass(frozen=True)
class Difference:
    """How one tree differs from another: paths removed and entries added or changed, each sorted by path."""

    removed: tuple[str, ...]
    added: tuple[Entry, ...]
    changed: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """Total size of the added and changed files, in bytes."""
        return sum(entry.size for entry in (*self.added, *self.changed))

    def __bool__(self) -> bool:
        return bool(self.removed or self.added or self.changed)


def difference(old: Sequence[Entry], new: Sequence[Entry]) -> Difference:
    """Return the changes that turn ``old`` into ``new``."""
    before = {entry.path: entry for entry in old}
    now = {entry.path: entry for entry in new}
    return Difference(
        removed=tuple(path for path in before if path not in now),
        added=tuple(entry for path, entry in now.items() if path not in before),
        changed=tuple(entry for path, entry in now.items() if path in before and before[path] != entry),
    )


@dataclass(frozen=True)
class _Rules:
    """The ignore rules of one folder and of the folders above it."""

    folder: str
    spec: GitIgnoreSpec
    outer: _Rules | None

    def ignores(self, path: str) -> bool:
        """Return whether ``path`` is ignored. As in git, the innermost folder with a matching rule decides."""
        inner = path[len(self.folder) :]
        verdict = self.spec.check_file(inner).include
        if verdict is not None:
            return bool(verdict)
        return self.outer.ignores(path) if self.outer else False


class Each(Protocol):
    """``map``, or an equivalent that runs on several cores."""

    def __call__(self, do: Callable[[Any], Any], items: Iterable[Any], /) -> Iterable[Any]:
        """Return the results in the order of the items."""


class Hashes:
    """Hashes of files read before, each valid while the file's size, times and inode are unchanged."""

    def __init__(self, known: Mapping[str, Sequence[int | str]] | None = None) -> None:
        self._before = known or {}
        self.now: dict[str, Sequence[int | str]] = {}

    def of(self, path: Path, status: os.stat_result) -> tuple[str, int]:
        """Return the SHA-256 and the size of a file; raises OSError."""
        mark = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        known = self._before.get(str(path))
        if known is not None and list(known[:4]) == mark:
            sha, size = str(known[4]), status.st_size
        else:
            sha, size = _hashed(path)
        self.now[str(path)] = [*mark, sha]
        return sha, size


def hash_tree(
    root: Path, *, obey_ignore_files: bool = True, hashes: Hashes | None = None, each: Each = map
) -> LocalTree:
    """Hash a folder, leaving out what ``.gitignore`` and ``.orchignore`` files name.

    Earlier ``hashes`` save reading unchanged files; ``each`` is ``map``, or an equivalent that runs on several
    cores. Raises SyncError for entries that cannot be sent: sockets, pipes, devices, unreadable files.
    """
    rules = _Rules("", GitIgnoreSpec.from_lines(ALWAYS_IGNORED if obey_ignore_files else ()), None)
    known = hashes or Hashes()
    found = _walk(root, "", rules, obey_ignore_files)
    made = each(lambda item: _entry(root, item[0], item[1], known), found)
    entries = sorted(made, key=lambda entry: os.fsencode(entry.path))
    return LocalTree(root, tuple(entries), tree_id(entry.row for entry in entries))


def hash_file(path: Path, hashes: Hashes | None = None) -> LocalTree:
    """Return one file as a folder that holds nothing else; raises SyncError."""
    try:
        entry = _entry(path.parent, path.name, path.stat(), hashes or Hashes())
    except OSError as error:
        raise SyncError(f"cannot read {path}: {error.strerror}") from None
    return LocalTree(path.parent, (entry,), tree_id([entry.row]))


def _walk(root: Path, folder: str, rules: _Rules, obey: bool) -> Iterator[tuple[str, os.stat_result | None]]:
    """Yield the path and status of every entry that is not ignored; the status of an empty folder is None."""
    try:
        inside = sorted(os.scandir(root / folder), key=lambda item: item.name)
    except OSError as error:
        raise SyncError(f"cannot read {folder or '.'}: {error.strerror}", remedy=_LEAVE_OUT) from None
    if obey:
        lines = [
            line
            for name in IGNORE_FILES
            if (root / folder / name).is_file()
            for line in (root / folder / name).read_text(errors="surrogateescape").splitlines()
        ]
        if lines:
            rules = _Rules(folder, GitIgnoreSpec.from_lines(lines), rules)
    empty = True
    for item in inside:
        path = folder + item.name
        is_folder = item.is_dir(follow_symlinks=False)
        if rules.ignores(path + "/" if is_folder else path):
            continue
        empty = False
        if is_folder:
            yield from _walk(root, path + "/", rules, obey)
        else:
            yield path, item.stat(follow_symlinks=False)
    if empty and folder:
        yield folder.rstrip("/"), None


_LEAVE_OUT = "make it readable, or leave it out with a line in .orchignore"


def _entry(root: Path, path: str, status: os.stat_result | None, hashes: Hashes) -> Entry:
    if status is None:
        return Entry(path, "dir", 0o755, 0, "")
    if stat.S_ISLNK(status.st_mode):
        return Entry(path, "link", 0o777, 0, str((root / path).readlink()))
    if not stat.S_ISREG(status.st_mode):
        raise SyncError(
            f"{path!r} is not a file, folder or link", remedy="leave it out with a line in .orchignore"
        )
    try:
        sha, size = hashes.of(root / path, status)
    except OSError as error:
        raise SyncError(f"cannot read {path!r}: {error.strerror}", remedy=_LEAVE_OUT) from None
    return Entry(path, "file", status.st_mode & 0o777, size, sha)


def _hashed(path: Path) -> tuple[str, int]:
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while piece := file.read(1024 * 1024):
            digest.update(piece)
            size += len(piece)
    return digest.hexdigest(), size
