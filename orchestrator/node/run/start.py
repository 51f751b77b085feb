"""The verb ``start``: take the host's lock, make the working folder, fork a supervisor, and follow the attempt."""

from __future__ import annotations

import json
import os
import select
import shutil

from ...protocol import VERSION, frames
from ...protocol.refusal import Refused
from ...protocol.run import Follow, Kept, Start, Started
from ..container import removal
from ..host import atomic, lock, paths
from . import collect, follow, presence, stop

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping


def answer(request: Start, out: int) -> None:
    """Start the attempt described by ``request`` and follow it until it ends.

    A node that was lost for a while may still run an earlier attempt of the same run; that attempt is ended first.
    Raises Refused if the node is busy, has the attempt already, lacks a tree, or the control machine has gone.
    """
    folder = paths.attempt_dir(request.run_id, request.attempt)
    if os.path.exists(folder):
        raise Refused("run %s exists on this node already" % request.run_id, "exists")
    stop.end(request.run_id, 0.0)
    listener = lock.acquire()
    try:
        work = make_folders(request, folder)
        if control_is_gone():
            raise Refused("the control machine disconnected before the start", "gone")
        leave_supervisor(request, folder, work, listener)
    finally:
        # The supervisor has its own copy of the lock; this process's copy must not outlive it.
        listener.close()
    frames.send(out, Started())
    follow.follow(Follow(run_id=request.run_id), request.attempt, out)


def make_folders(request: Start, folder: str) -> str:
    """Make the attempt's ``folder`` with its record, and the working folder, and return the latter's path.

    Raises Refused if a tree is missing.
    """
    os.makedirs(folder, mode=0o700)
    if paths.is_shared():
        presence.begin(folder)
    work = make_work_dir(request)
    make_logs_dir(request, folder)
    write_files(request.files)
    with open(os.path.join(folder, paths.KEPT), "w") as file:
        json.dump(kept(request, work).to_wire(), file)
    if request.container is not None:
        removal.note(folder, request.container)
    return work


def kept(request: Start, work: str) -> Kept:
    """Return the record of the attempt that this host keeps."""
    return Kept(
        version=VERSION,
        run_id=request.run_id,
        attempt=request.attempt,
        work=work,
        workdir=request.workdir,
        tree=request.tree,
        overlays=request.overlays,
        # Only the first word is kept: arguments may hold secrets, and this record is permanent.
        program=request.argv[:1],
        owner=request.owner,
        workload=request.workload,
        node=request.node,
        nodes=request.nodes,
        node_rank=request.node_rank,
        first_rank=request.first_rank,
        nproc=request.nproc,
        min_nodes=request.min_nodes,
        boot_id=paths.boot_id(),
    )


def control_is_gone() -> bool:
    """Return whether stdin has ended, so that no control machine would learn of a start."""
    ready, _, _ = select.select([0], [], [], 0)
    return bool(ready) and not os.read(0, 4096)


def make_work_dir(request: Start) -> str:
    """Make the run's working folder, lay the overlays over it, and return its path.

    The first attempt copies the synced tree; later attempts use the same folder. Overlays are trees with the
    outputs of an earlier run, or of another node of this run. Raises Refused if a tree is missing.
    """
    work = paths.work_dir(request.workdir, request.run_id)
    listing = os.path.join(paths.run_dir(request.run_id), collect.BEFORE)
    if not os.path.exists(listing):
        # Other users may be able to write to the folder above; only this user may write to this one.
        os.makedirs(os.path.dirname(work), exist_ok=True)
        paths.private(work)
        copy_tree(existing_tree(request, request.tree), work)
        with atomic.written(listing) as file:
            json.dump(collect.listing(work), file)
    for tree_id in request.overlays:
        copy_tree(existing_tree(request, tree_id), work)
    os.makedirs(os.path.join(work, request.cwd), exist_ok=True)
    os.makedirs(os.path.join(work, collect.OUTPUT_FOLDER), exist_ok=True)
    return work


def make_logs_dir(request: Start, folder: str) -> None:
    """Make the folder for the attempt's logs, on the workdir's disk, and link to it from the attempt's folder."""
    logs = paths.logs_dir(request.workdir, request.run_id, request.attempt)
    shutil.rmtree(logs, ignore_errors=True)
    os.makedirs(logs, mode=0o700)
    # The link is relative because other machines may mount the home folder elsewhere.
    os.symlink(os.path.relpath(os.path.realpath(logs), os.path.realpath(folder)), os.path.join(folder, "logs"))


def write_files(files: Mapping[str, str]) -> None:
    """Write the files that the launcher reads. ``files``: path -> text."""
    for path, text in files.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as file:
            file.write(text)


def existing_tree(request: Start, tree_id: str) -> str:
    """Return the folder of a synced tree; raises Refused if the node does not have it."""
    tree = paths.tree_dir(request.workdir, request.project, tree_id)
    if not os.path.isdir(tree):
        raise Refused("tree %s is not on this node" % tree_id, "tree")
    paths.private(os.path.dirname(tree))
    paths.private(tree)
    return tree


def copy_tree(source: str, target: str) -> None:
    """Copy a tree into ``target``, replacing files of the same name, and make the copies writable."""
    for folder, folders, files in os.walk(source):
        into = os.path.join(target, os.path.relpath(folder, source))
        os.makedirs(into, exist_ok=True)
        for name in files + [name for name in folders if os.path.islink(os.path.join(folder, name))]:
            there = os.path.join(into, name)
            if os.path.lexists(there):
                os.unlink(there)
            shutil.copy2(os.path.join(folder, name), there, follow_symlinks=False)
            if not os.path.islink(there):
                os.chmod(there, os.stat(there).st_mode | 0o200)


def leave_supervisor(request: Start, folder: str, work: str, listener: socket.socket) -> None:
    """Fork a supervisor into its own session; it takes over ``listener``, the host's lock."""
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    try:
        os.setsid()
        if os.fork():
            os._exit(0)
        null = os.open(os.devnull, os.O_RDONLY)
        log = os.open(os.path.join(folder, "supervisor.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        lock_fd = os.dup2(listener.fileno(), 3)
        os.closerange(4, 256)
        from . import supervisor

        supervisor.main(request, folder, work, lock_fd)
    finally:
        os._exit(1)
