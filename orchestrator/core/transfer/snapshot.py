"""A folder as a value: its files, their hashes, and one id for the whole.

The tree id is the SHA-256 over every entry's path, kind, mode and content hash, so two folders have the
same id exactly when a script would find the same in them. Folders have no mode of their own, files no time.
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
# Nothing here is ever part of what a script needs to run.
ALWAYS_IGNORED = (".git/", "__pycache__/", "*.pyc", ".orch/")


@dataclass(frozen=True)
class Entry:
    """One thing in a tree. ``kind`` is ``file``, ``link`` or ``dir`` (an empty one).

    ``about`` is the SHA-256 of a file's bytes, or a link's target.
    """

    path: str
    kind: str
    mode: int
    size: int
    about: str

    @property
    def row(self) -> Row:
        """The entry as lists of it have it."""
        return self.path, self.kind, self.mode, self.size, self.about


@dataclass(frozen=True)
class Snapshot:
    """The entries of a folder, sorted by path. ``root`` is where their bytes are."""

    root: Path
    entries: tuple[Entry, ...]
    tree_id: str

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.entries)


@dataclass(frozen=True)
class Difference:
    """How one tree becomes another: the paths that go, and the entries that come or change, each sorted."""

    removed: tuple[str, ...]
    added: tuple[Entry, ...]
    changed: tuple[Entry, ...]

    @property
    def size(self) -> int:
        """Bytes of the files that come or change."""
        return sum(entry.size for entry in (*self.added, *self.changed))

    def __bool__(self) -> bool:
        return bool(self.removed or self.added or self.changed)


def difference(old: Sequence[Entry], new: Sequence[Entry]) -> Difference:
    """What has to happen to ``old`` for it to be ``new``."""
    before = {entry.path: entry for entry in old}
    now = {entry.path: entry for entry in new}
    return Difference(
        removed=tuple(path for path in before if path not in now),
        added=tuple(entry for path, entry in now.items() if path not in before),
        changed=tuple(entry for path, entry in now.items() if path in before and before[path] != entry),
    )


@dataclass(frozen=True)
class _Rules:
    """The ignore rules of one folder, and those of the folders above it."""

    folder: str
    spec: GitIgnoreSpec
    outer: _Rules | None

    def ignores(self, path: str) -> bool:
        """As git decides: the innermost folder that has an opinion wins."""
        inner = path[len(self.folder) :]
        verdict = self.spec.check_file(inner).include
        if verdict is not None:
            return bool(verdict)
        return self.outer.ignores(path) if self.outer else False


class Each(Protocol):
    """``map``, or something like it."""

    def __call__(self, do: Callable[[Any], Any], items: Iterable[Any], /) -> Iterable[Any]:
        """The results, in order."""


class Hashes:
    """The hashes of files that were read before, valid while size, times and inode are the same."""

    def __init__(self, known: Mapping[str, Sequence[int | str]] | None = None) -> None:
        self._before = known or {}
        self.now: dict[str, Sequence[int | str]] = {}

    def of(self, path: Path, status: os.stat_result) -> tuple[str, int]:
        """SHA-256 and size of a file; raises OSError."""
        mark = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
        known = self._before.get(str(path))
        if known is not None and list(known[:4]) == mark:
            sha, size = str(known[4]), status.st_size
        else:
            sha, size = _hashed(path)
        self.now[str(path)] = [*mark, sha]
        return sha, size


def take(
    root: Path, *, obey_ignore_files: bool = True, hashes: Hashes | None = None, each: Each = map
) -> Snapshot:
    """Hash a folder, leaving out what ``.gitignore`` and ``.orchignore`` files name.

    ``hashes`` of an earlier time save reading what has not changed; ``each`` is ``map``, or what does the same on
    several cores. Raises SyncError for what cannot be carried: sockets, pipes, devices, unreadable files.
    """
    rules = _Rules("", GitIgnoreSpec.from_lines(ALWAYS_IGNORED if obey_ignore_files else ()), None)
    known = hashes or Hashes()
    found = _walk(root, "", rules, obey_ignore_files)
    made = each(lambda item: _entry(root, item[0], item[1], known), found)
    entries = sorted(made, key=lambda entry: os.fsencode(entry.path))
    return Snapshot(root, tuple(entries), tree_id(entry.row for entry in entries))


def take_file(path: Path, hashes: Hashes | None = None) -> Snapshot:
    """One file as a folder that holds nothing else; raises SyncError."""
    try:
        entry = _entry(path.parent, path.name, path.stat(), hashes or Hashes())
    except OSError as error:
        raise SyncError(f"cannot read {path}: {error.strerror}") from None
    return Snapshot(path.parent, (entry,), tree_id([entry.row]))


def _walk(root: Path, folder: str, rules: _Rules, obey: bool) -> Iterator[tuple[str, os.stat_result | None]]:
    """The path and the status of whatever is not ignored; None for the status of an empty folder."""
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
