"""Locks on files, where the disk has any; NFSv4 wants a shared one on a file that can be read."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os

from . import paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

# What a disk without locks answers.
NONE = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@contextlib.contextmanager
def held(path: str, how: int) -> Iterator[None]:
    """Hold a lock (fcntl.LOCK_SH, LOCK_EX, with LOCK_NB or not) on a file; raises BlockingIOError if it is taken.

    On a disk without locks it is one of this host's own disk: others that share the disk do not see it.
    """
    for each in (path, _beside(path)):
        try:
            file = _locked(each, how)
        except OSError as error:
            if error.errno not in NONE:
                raise
            continue
        with file:
            yield
        return
    yield


def _locked(path: str, how: int) -> IO[str]:
    """The open file with its lock, once it is what stands at the path: the last holder may have removed it."""
    while True:
        file = open(path, "a+")  # noqa: SIM115
        try:
            fcntl.flock(file, how)
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except FileNotFoundError:
            pass
        except OSError:
            file.close()
            raise
        file.close()


def _beside(path: str) -> str:
    """A file of this host's state in the place of one on another disk."""
    folder = os.path.join(paths.state_dir(), "locks")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return os.path.join(folder, hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32])
