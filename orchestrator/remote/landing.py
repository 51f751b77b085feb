"""A local folder that receives a node's files; no path that the node sends can lead out of it.

Every component of a path is opened by descriptor without following links, so an existing link is never written
through.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

MOST_NAME, MOST_PATH, MOST_DEPTH = 255, 1024, 64
# The name of a file while it is being written; no received file may have it.
PART = ".orch-part"
# Errors for names that Linux on the node allows and this machine's file system does not.
_UNNAMEABLE = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_umask = os.umask(0o077)
os.umask(_umask)


class CannotLand(Exception):
    """A file cannot be written at its path; the message is a short reason."""


def fault_of(path: str, target: str | None = None) -> str | None:
    """Return why a path, or the target of a link there, is refused; None if both are sound."""
    parts = path.split("/")
    try:
        sizes = [len(os.fsencode(part)) for part in parts]
        target_size = len(os.fsencode(target or ""))
    except UnicodeEncodeError:
        return "not a valid name on this machine"
    if not path or "\0" in path or any(part in ("", ".", "..") for part in parts):
        return "leads out of the folder"
    if len(parts) > MOST_DEPTH or max(sizes) > MOST_NAME or sum(sizes) + len(parts) > MOST_PATH:
        return "its name is too long"
    if parts[0].casefold() == PART:
        return "a name that orch reserves"
    if target is None:
        return None
    if target_size > MOST_PATH:
        return "its target is too long"
    return None if _stays_inside(target, len(parts) - 1) else "leads out of the folder"


def _stays_inside(target: str, depth: int) -> bool:
    """Return whether a link ``depth`` folders deep stays inside, whatever other links exist.

    The link lies in a real folder, so leading ".." reach another real folder; the rest goes down, and each link
    met there obeys the same rule. A ".." after a link would go up from that link's target, so it is refused.
    """
    parts = [part for part in target.split("/") if part not in ("", ".")]
    up = parts.count("..")
    whole = bool(target) and "\0" not in target and not target.startswith("/")
    return whole and up <= depth and ".." not in parts[up:]


class Landing:
    """Context manager of the folder ``root``, made if missing. Raises OSError where this machine cannot write."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __enter__(self) -> Landing:
        self.root.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(self.root, _FOLDER)
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._handle)

    def status(self, path: str) -> os.stat_result | None:
        """Return the status of a path without following a link there; None if nothing exists."""
        try:
            with self._folder(path, make=False) as (folder, name):
                return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except (FileNotFoundError, CannotLand):
            return None

    @contextmanager
    def file(self, path: str, mode: int, mtime_ns: int) -> Iterator[Callable[[bytes], object]]:
        """Yield a function that writes to a file; the file is put in place only if the context ends without error.

        Raises Misplaced if the path is a folder, passes through a link, or has a name that the disk refuses.
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
                raise CannotLand("a folder is in its place") from None
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(PART, dir_fd=self._handle)

    def link(self, path: str, target: str) -> None:
        """Make a link, replacing a file or link at its path. Raises Misplaced as ``file`` does."""
        with self._folder(path) as (folder, name):
            try:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
                os.symlink(target, name, dir_fd=folder)
            except (IsADirectoryError, PermissionError):
                raise CannotLand("a folder is in its place") from None

    @contextmanager
    def _folder(self, path: str, *, make: bool = True) -> Iterator[tuple[int, str]]:
        """Yield the folder of a path as a descriptor, and the name in it."""
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
                    raise CannotLand(f"{each!r} on its path is not a folder") from None
                os.close(handle)
                handle = inner
            yield handle, name
        except OSError as error:
            if error.errno not in _UNNAMEABLE:
                raise
            raise CannotLand("this machine's disk does not allow its name") from None
        finally:
            os.close(handle)
