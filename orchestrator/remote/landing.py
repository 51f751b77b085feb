"""A folder of this machine that a node's files land in, and nothing that the node says leads out of it.

Every component of a path is opened by descriptor without following links, so a link that lies there, whoever made
it, is never written through.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MOST_NAME, MOST_PATH, MOST_DEPTH = 255, 1024, 64
# What is being written lies under this name until it is whole; no file may land there.
PART = ".orch-part"
# Names that this machine's file system does not take, whatever Linux there takes.
_UNNAMEABLE = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_umask = os.umask(0o077)
os.umask(_umask)


class Misplaced(Exception):
    """A file cannot stand where it is meant to; the message says why, in a few words."""


def fault_of(path: str, target: str | None = None) -> str | None:
    """Why a path, or the target of a link there, is not taken; None if nothing is wrong with it."""
    parts = path.split("/")
    try:
        sizes = [len(os.fsencode(part)) for part in parts]
        target_size = len(os.fsencode(target or ""))
    except UnicodeEncodeError:
        return "no file name here"
    if not path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        return "leads out of the folder"
    if len(parts) > MOST_DEPTH or max(sizes) > MOST_NAME or sum(sizes) + len(parts) > MOST_PATH:
        return "its name is too long"
    if parts[0].casefold() == PART:
        return "orch's own name"
    if target is None:
        return None
    if target_size > MOST_PATH:
        return "its target is too long"
    return None if _stays_inside(target, len(parts) - 1) else "leads out of the folder"


def _stays_inside(target: str, depth: int) -> bool:
    """Whether a link in a folder so deep stays inside, whatever links lie beside it.

    From a folder that is none, its ".." come first and lead up to another; what follows goes down, and each link
    met there does the same. After a link, ".." would lead up from where that one leads.
    """
    parts = [part for part in target.split("/") if part not in ("", ".")]
    up = parts.count("..")
    whole = bool(target) and "\0" not in target and not target.startswith("/")
    return whole and up <= depth and ".." not in parts[up:]


class Landing:
    """The folder ``root``, made if it is not there. A context; raises OSError where this machine cannot write."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __enter__(self) -> Landing:
        self.root.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self.root, _FOLDER)
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._handle)

    def status(self, path: str) -> os.stat_result | None:
        """What stands at a path, a link as a link; None for nothing."""
        try:
            with self._folder(path, make=False) as (folder, name):
                return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except (FileNotFoundError, Misplaced):
            return None

    @contextmanager
    def file(self, path: str, mode: int, mtime_ns: int) -> Iterator[Callable[[bytes], object]]:
        """Write a file: what is given to the function, in place once the context ends well, else nothing.

        Raises Misplaced where a folder stands, a link is on the way, or the disk takes no such name.
        """
        with self._folder(path) as (folder, name):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(PART, dir_fd=self._handle)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            try:
                with os.fdopen(os.open(PART, flags, 0o600, dir_fd=self._handle), "wb") as file:
                    yield file.write
                    file.flush()
                    os.fchmod(file.fileno(), mode & 0o777 & ~_umask | 0o600)
                    os.utime(file.fileno(), ns=(mtime_ns, mtime_ns))
                os.rename(PART, name, src_dir_fd=self._handle, dst_dir_fd=folder)
            except IsADirectoryError:
                raise Misplaced("a folder stands there") from None
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(PART, dir_fd=self._handle)

    def link(self, path: str, target: str) -> None:
        """Make a link, over a file or a link that stands there; raises Misplaced as ``file`` does."""
        with self._folder(path) as (folder, name):
            try:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
                os.symlink(target, name, dir_fd=folder)
            except (IsADirectoryError, PermissionError):
                raise Misplaced("a folder stands there") from None

    @contextmanager
    def _folder(self, path: str, *, make: bool = True) -> Iterator[tuple[int, str]]:
        """The folder of a path as a descriptor, and the name in it."""
        *folders, name = path.split("/")
        handle = os.dup(self._handle)
        try:
            for each in folders:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(each, 0o777, dir_fd=handle)
                try:
                    inner = os.open(each, _FOLDER, dir_fd=handle)
                except OSError as error:
                    if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                        raise
                    raise Misplaced(f"{each!r} on its way is no folder") from None
                os.close(handle)
                handle = inner
            yield handle, name
        except OSError as error:
            if error.errno not in _UNNAMEABLE:
                raise
            raise Misplaced("the disk here takes no such name") from None
        finally:
            os.close(handle)
