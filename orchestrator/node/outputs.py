"""The verb ``collect``: send back what a run wrote into its working folder.

Request: ``{"run_id"}``. The node names what is new or changed, the control side answers with a JSON list of
the paths it wants, and gets their bytes: a JSON frame each, then its data frames.
"""

import json
import os

from . import paths, wire
from .refusal import Refused

OUTPUT_FOLDER = "orch-output"


def listing(root):
    """Every file and link below ``root``: ``{path: [size, time of change in ns]}``."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in files + [name for name in folders if os.path.islink(os.path.join(folder, name))]:
            path = os.path.join(folder, name)
            status = os.lstat(path)
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
    offered = [offer(work, path, about) for path, about in listing(work).items() if before.get(path) != about]
    wire.write_all(out, wire.json_frame({"work": work, "files": [entry for entry in offered if entry]}))
    chosen = wire.read_frame(0)
    if chosen is None:
        return
    for path in json.loads(chosen[1].decode("ascii"))["paths"]:
        send(os.path.join(work, path), path, out)
    wire.write_all(out, wire.json_frame({"done": True}))


def offer(work, path, about):
    """What the control side chooses by: ``[path, size, mtime ns, link target or null]``; None: no file."""
    whole = os.path.join(work, path)
    if os.path.islink(whole):
        return [path, 0, about[1], os.readlink(whole)]
    return [path, about[0], about[1], None] if os.path.isfile(whole) else None


def send(whole, path, out):
    """Send one file as it is now, its size first."""
    with open(whole, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        mode = os.fstat(file.fileno()).st_mode
        wire.write_all(out, wire.json_frame({"path": path, "size": size, "mode": mode & 0o777}))
        while size:
            piece = file.read(min(size, wire.CHUNK))
            if not piece:
                raise Refused("%r shrank while it was collected" % path, "changed")
            wire.write_all(out, wire.data_frame(piece))
            size -= len(piece)
