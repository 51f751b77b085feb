"""The verb ``collect``: send the control side the files that a run wrote into its working folder."""

from __future__ import annotations

import errno
import json
import os

from ...protocol import frames
from ...protocol.refusal import Refused
from ...protocol.transfer import AllSent, Chosen, Offered, Sending, Skipped
from ..host import paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...protocol.transfer import Collect

# Folder for outputs, in the working folder.
OUTPUT_FOLDER = "orch-output"
# Listing of the working folder from before the run wrote to it, in the folder of the run's state.
BEFORE = "before.json"


def listing(root: str) -> dict[str, list[int]]:
    """Return every file and link below ``root``: ``{path: [size in bytes, modification time in ns]}``.

    Files that vanish during the walk, as rotated snapshots do, are left out.
    """
    found = {}
    for folder, folders, files in os.walk(root):
        for name in files + [name for name in folders if os.path.islink(os.path.join(folder, name))]:
            path = os.path.join(folder, name)
            try:
                status = os.lstat(path)
            except OSError:
                continue
            found[os.path.relpath(path, root)] = [status.st_size, status.st_mtime_ns]
    return found


def answer(request: Collect, out: int) -> None:
    """Offer the new and changed files, and send those that the control side chooses.

    Raises Refused if the node has no such run.
    """
    run = paths.run_dir(request.run_id)
    try:
        known = paths.kept(request.run_id, (paths.attempts(request.run_id) or [1])[-1])
        with open(os.path.join(run, BEFORE)) as file:
            before = json.load(file)
    except FileNotFoundError:
        known = None
    if known is None:
        raise Refused("there is no run %s on this node" % request.run_id, "no-run")
    work = known.work
    now = listing(work)
    offered = [offer(work, path, about) for path, about in now.items() if before.get(path) != about]
    before_sending = {path: inode(os.path.join(work, path)) for path in now}
    frames.send(out, Offered(work=work, files=tuple(entry for entry in offered if entry)))
    chosen = frames.receive(0, Chosen)
    if chosen is None:
        return
    for path, size in chosen.files:
        send(work, path, size, before_sending.get(path), out)
    frames.send(out, AllSent(done=True))


def offer(work: str, path: str, about: Sequence[int]) -> tuple[str, int, int, str | None] | None:
    """Return path, size in bytes, modification time in ns, and target of a link; None if it is no file or link."""
    whole = os.path.join(work, path)
    if os.path.islink(whole):
        try:
            return path, 0, about[1], os.readlink(whole)
        except OSError:
            return None
    return (path, about[0], about[1], None) if os.path.isfile(whole) else None


def inode(path: str) -> tuple[int, int] | None:
    """Return device and inode number of a path, which tell whether the file was replaced; None if it is gone."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def send(work: str, path: str, size: int, known: tuple[int, int] | None, out: int) -> None:
    """Send the first ``size`` bytes of a file, or ``Skipped`` with a reason.

    ``known``: device and inode when the file was offered. A log may have grown since then.
    """
    try:
        # If a pipe has taken the file's place, opening it must not block.
        file = os.fdopen(os.open(os.path.join(work, path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb")
    except OSError as error:
        why = "vanished" if error.errno == errno.ENOENT else "cannot be read: %s" % error.strerror
        frames.send(out, Skipped(path=path, skipped=why))
        return
    with file:
        status = os.fstat(file.fileno())
        if (status.st_dev, status.st_ino) != known or status.st_size < size:
            frames.send(out, Skipped(path=path, skipped="changed while it was fetched"))
            return
        frames.send(out, Sending(path=path, size=size, mode=status.st_mode & 0o777))
        while size:
            piece = file.read(min(size, frames.CHUNK))
            if not piece:
                frames.send(out, Skipped(path=path, skipped="changed while it was fetched"))
                return
            frames.write_all(out, frames.data_frame(piece))
            size -= len(piece)
