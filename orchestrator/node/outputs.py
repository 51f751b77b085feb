"""The verb ``collect``: send back what a run wrote into its working folder.

Request: ``{"run_id"}``. The node names what is new or changed, the control side answers with ``{"files": [[path,
size], ...]}``, and gets for each a JSON frame, ``{"path", "size", "mode"}`` and then as many bytes in data
frames, or ``{"path", "skipped": why}``, which may also come in the middle of a file that became shorter; then
``{"done"}``.
"""

import errno
import json
import os

from . import paths, wire
from .refusal import Refused

OUTPUT_FOLDER = "orch-output"


def listing(root):
    """Every file and link below ``root``: ``{path: [size, time of change in ns]}``.

    One that vanishes meanwhile, as rotated snapshots do, is none.
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


def answer(request, out):
    """Offer, hear the choice, send."""
    run = paths.run_dir(request["run_id"])
    try:
        newest = paths.attempt_dir(request["run_id"], (paths.attempts(request["run_id"]) or [1])[-1])
        with open(os.path.join(newest, "run.json")) as file:
            work = json.load(file)["work"]
        with open(os.path.join(run, "before.json")) as file:
            before = json.load(file)
    except FileNotFoundError:
        raise Refused("there is no run %s on this node" % request["run_id"], "no-run") from None
    now = listing(work)
    offered = [offer(work, path, about) for path, about in now.items() if before.get(path) != about]
    before_sending = {path: inode(os.path.join(work, path)) for path in now}
    wire.write_all(out, wire.json_frame({"work": work, "files": [entry for entry in offered if entry]}))
    chosen = wire.read_frame(0)
    if chosen is None:
        return
    for path, size in json.loads(chosen[1].decode("ascii"))["files"]:
        send(work, path, size, before_sending.get(path), out)
    wire.write_all(out, wire.json_frame({"done": True}))


def offer(work, path, about):
    """What the control side chooses by: ``[path, size, mtime ns, link target or null]``; None: no file."""
    whole = os.path.join(work, path)
    if os.path.islink(whole):
        try:
            return [path, 0, about[1], os.readlink(whole)]
        except OSError:
            return None
    return [path, about[0], about[1], None] if os.path.isfile(whole) else None


def inode(path):
    """Which file stands at a path: one that is replaced by another has another number."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def send(work, path, size, known, out):
    """Send the first ``size`` bytes of a file; a log may have grown since it was offered."""
    try:
        # Whatever took its place meanwhile must not be waited for, as a pipe would be.
        file = os.fdopen(os.open(os.path.join(work, path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb")
    except OSError as error:
        why = "vanished" if error.errno == errno.ENOENT else "cannot be read: %s" % error.strerror
        wire.write_all(out, wire.json_frame({"path": path, "skipped": why}))
        return
    with file:
        status = os.fstat(file.fileno())
        if (status.st_dev, status.st_ino) != known or status.st_size < size:
            wire.write_all(out, wire.json_frame({"path": path, "skipped": "changed while it was fetched"}))
            return
        wire.write_all(out, wire.json_frame({"path": path, "size": size, "mode": status.st_mode & 0o777}))
        while size:
            piece = file.read(min(size, wire.CHUNK))
            if not piece:
                wire.write_all(out, wire.json_frame({"path": path, "skipped": "changed while it was fetched"}))
                return
            wire.write_all(out, wire.data_frame(piece))
            size -= len(piece)
