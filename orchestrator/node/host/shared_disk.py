"""Do two nodes share a disk? Where their workdirs have one id, a token tells: written by one, seen by the other.

An id alone may be a copy, as in cloned machines: one that looks in vain takes a new id.
"""

from __future__ import annotations

import contextlib
import os
import uuid

from ...protocol import frames
from ...protocol.transfer import SharedDiskToken, TokenSeen
from . import atomic, paths


def of(workdir: str) -> str:
    """The id of the folder that holds what is synced: nodes that share a disk have the same."""
    home = paths.own_dir(workdir)
    paths.private(home)
    target = os.path.join(home, "id")
    if not os.path.exists(target):
        partial = os.path.join(home, atomic.partial_name())
        try:
            with open(partial, "x") as file:
                file.write(uuid.uuid4().hex)
            try:
                # A link, unlike a rename, leaves the one that another node made in the same moment.
                os.link(partial, target)
            except FileExistsError:
                pass
            except OSError:
                # A disk without hard links: of two that do this at once the later one's stays for both.
                os.rename(partial, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
    with open(target) as file:
        return file.read()


def answer(request: SharedDiskToken, out: int) -> None:
    """Write, look for, or remove a token."""
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
