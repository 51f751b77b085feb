"""Replace files and links atomically, so that readers find either the old or the new one.

An item under construction has a name that tells which process of which host is making it. A process that dies
leaves such items behind; ``abandoned`` recognises them.
"""

from __future__ import annotations

import contextlib
import os

from . import paths, processes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO, TextIO

PREFIX = ".part-"


@contextlib.contextmanager
def written(path: str) -> Iterator[TextIO]:
    """Open a new text file, which is renamed to ``path`` when the block ends without an exception."""
    with _partial(path) as partial:
        with open(partial, "x") as file:
            yield file
        os.replace(partial, path)


@contextlib.contextmanager
def written_bytes(path: str) -> Iterator[BinaryIO]:
    """Open a new binary file that only this user may read, and rename it to ``path`` as ``written`` does."""
    with _partial(path) as partial:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield file
        os.replace(partial, path)


def symlink(target: str, path: str) -> None:
    """Make ``path`` a symbolic link to ``target``, replacing an existing file or link."""
    with _partial(path) as partial:
        os.symlink(target, partial)
        os.replace(partial, path)


@contextlib.contextmanager
def _partial(path: str) -> Iterator[str]:
    partial = os.path.join(os.path.dirname(path), partial_name())
    try:
        yield partial
    finally:
        with contextlib.suppress(OSError):
            os.unlink(partial)


def partial_name() -> str:
    """Return a new name for an item under construction by this process."""
    pid = os.getpid()
    return "%s%s@%d-%s-%s" % (PREFIX, paths.hostname(), pid, processes.start_time(pid), os.urandom(4).hex())


def abandoned(name: str) -> bool:
    """Return whether ``name`` is the name of an item left by a process of this host that has ended."""
    # Host names contain no "@", so names of the host gpu-1 are not mistaken for names of the host gpu.
    mine = "%s%s@" % (PREFIX, paths.hostname())
    if not name.startswith(mine):
        return False
    pid, start = name[len(mine) :].split("-")[:2]
    return processes.start_time(int(pid)) != start
