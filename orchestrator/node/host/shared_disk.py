"""The verb ``token``: find out whether nodes share a disk, by ids and tokens in their workdirs.

Nodes share a disk if their workdirs have the same id and one node sees a token that another wrote. An id alone may
be a copy, as on cloned machines; a node that does not see the token deletes its id.
"""

from __future__ import annotations

import contextlib
import os

from ...protocol import frames
from ...protocol.transfer import SharedDiskToken, TokenSeen
from . import atomic, paths


def of(workdir: str) -> str:
    """Return the id of a workdir, creating it if needed; nodes that share a disk get the same id."""
    home = paths.own_dir(workdir)
    paths.private(home)
    target = os.path.join(home, "id")
    if not os.path.exists(target):
        partial = os.path.join(home, atomic.partial_name())
        try:
            with open(partial, "x") as file:
                file.write(os.urandom(16).hex())
            try:
                # Unlike a rename, a link does not replace an id that another node creates at the same moment.
                os.link(partial, target)
            except FileExistsError:
                pass
            except OSError:
                # The disk has no hard links. If two nodes do this at once, the later id stays for both.
                os.rename(partial, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
    with open(target) as file:
        return file.read()


def answer(request: SharedDiskToken, out: int) -> None:
    """Write, look for, or remove a token, and report whether it exists now."""
    path = os.path.join(paths.own_dir(request.workdir), "token-" + request.token)
    if request.op == "write":
        open(path, "x").close()
    elif request.op == "remove":
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    there = os.path.exists(path)
    if request.op == "look" and not there:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(paths.own_dir(request.workdir), "id"))
    frames.send(out, TokenSeen(there=there))
