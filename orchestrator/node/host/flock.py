"""Lock files across processes, and across hosts where the file system supports locks."""

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

# Error numbers of a file system that does not support locks.
UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@contextlib.contextmanager
def held(path: str, how: int) -> Iterator[None]:
    """Hold a lock on a file, which is created if needed.

    ``how``: fcntl.LOCK_SH or LOCK_EX, with or without LOCK_NB. With LOCK_NB, raises BlockingIOError if the lock is
    taken. If the file system does not support locks, a file in this host's state folder is locked instead, which
    other hosts that share the disk do not see; if that fails as well, there is no lock.
    """
    for each in (path, _beside(path)):
        try:
            file = _locked(each, how)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            continue
        with file:
            yield
        return
    yield


def _locked(path: str, how: int) -> IO[str]:
    """Return the open, locked file; try again if the previous holder has removed it from ``path`` meanwhile."""
    while True:
        # Opened for reading as well, because NFSv4 requires that for a shared lock.
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
    """Return the path of the file in this host's state folder that is locked in place of ``path``."""
    folder = os.path.join(paths.state_dir(), "locks")
    os.makedirs(folder, mode=0o700, exist_ok=True)
    return os.path.join(folder, hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32])
