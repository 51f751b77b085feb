"""The verb ``start``: take the host's lock, make the working folder, leave a supervisor behind, follow it."""

import json
import os
import shutil

from . import follow, lock, outputs, paths, store, wire
from .refusal import Refused


def answer(request, out):
    """Start the run described by ``request`` and follow it; raises Refused if the node is busy."""
    run = paths.run_dir(request["run_id"])
    if os.path.exists(run):
        raise Refused("run %s exists on this node already" % request["run_id"], "exists")
    listener = lock.acquire()
    try:
        os.makedirs(os.path.join(run, "logs"), mode=0o700)
        work = make_work_dir(request)
        with open(os.path.join(run, "run.json"), "w") as file:
            # Not the environment: it may hold secrets, and this file stays.
            kept = {key: value for key, value in request.items() if key not in ("env", "nonce")}
            json.dump(dict(kept, work=work), file)
        leave_supervisor(request, run, work, listener)
    finally:
        # The supervisor has its own copy of the lock; ours must not outlive it.
        listener.close()
    wire.write_all(out, wire.json_frame({"type": "started", "work": work}))
    follow.follow(request["run_id"], {}, out)


def make_work_dir(request):
    """A folder of the run's own: a copy of the synced tree, then of what it resumes from."""
    work = paths.work_dir(request["workdir"], request["run_id"])
    os.makedirs(os.path.dirname(work), exist_ok=True)
    for position, tree_id in enumerate([request["tree"]] + request["overlays"]):
        tree = paths.tree_dir(request["workdir"], request["project"], tree_id)
        if not os.path.isdir(tree):
            raise Refused("tree %s is not on this node" % tree_id, "tree")
        copy_tree(tree, work)
        if position == 0:
            before = outputs.listing(work)
    os.makedirs(os.path.join(work, request["cwd"]), exist_ok=True)
    os.makedirs(os.path.join(work, outputs.OUTPUT_FOLDER), exist_ok=True)
    with open(os.path.join(paths.run_dir(request["run_id"]), "before.json"), "w") as file:
        json.dump(before, file)
    return work


def copy_tree(source, target):
    """Copy a tree over ``target``; what stands there under the same name is replaced."""
    for folder, folders, files in os.walk(source):
        into = os.path.join(target, os.path.relpath(folder, source))
        os.makedirs(into, exist_ok=True)
        for name in files + [name for name in folders if os.path.islink(os.path.join(folder, name))]:
            if name == store.MANIFEST and folder == source:
                continue
            there = os.path.join(into, name)
            if os.path.islink(there):
                os.unlink(there)
            shutil.copy2(os.path.join(folder, name), there, follow_symlinks=False)
            if not os.path.islink(there):
                os.chmod(there, os.stat(there).st_mode | 0o200)


def leave_supervisor(request, run, work, listener):
    """Fork a supervisor that belongs to no terminal and no connection; it holds ``listener``, the lock."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        null = os.open(os.devnull, os.O_RDONLY)
        log = os.open(os.path.join(run, "supervisor.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        lock_fd = os.dup2(listener.fileno(), 3)
        os.closerange(4, 256)
        from . import supervisor

        supervisor.main(request, run, work, lock_fd)
    finally:
        os._exit(1)
