"""The verbs ``prune`` and ``used``: remove old and abandoned items, never those that a living run uses."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import shutil
import time

from ...protocol import frames
from ...protocol.transfer import Pruned, Used
from ..host import atomic, lock, paths, processes
from . import blobs
from .abandoned import listed, remove_abandoned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...protocol.transfer import ListUsed, Prune

# An ended run is removed when unchanged for longer than this, in seconds, and not among this many newest runs.
KEPT_SECONDS, KEPT_RUNS = 30 * 86400.0, 20


def answer_used(request: ListUsed, out: int) -> None:
    """Answer the verb ``used``: name the trees and environments that living runs of this host use.

    Hosts that share a disk are asked before one of them prunes it.
    """
    frames.send(out, Used(used=tuple(sorted(in_use()[0]))))


def answer(request: Prune, out: int) -> None:
    """Remove old trees, environments, blobs and, if requested, ended runs; raises Refused during a sync."""
    store = blobs.Blobs(request.workdir)
    with store.held(alone=True):
        removed: collections.Counter[str] = collections.Counter()
        used, living = in_use()
        # Names in use by runs of other hosts that share this disk.
        used.update(request.used)
        # Imported here because a supervisor, which forgets old runs, is also what a job starts.
        from ..slurm import tidying

        of_jobs, ended = tidying.in_use(request.workdir)
        used.update(of_jobs)
        for project in paths.projects(request.workdir):
            remove_abandoned(request.workdir, project)
            prune_trees(request.workdir, project, request.keep, used, removed)
        prune_blobs(store, request.workdir, removed)
        prune_environments(request.workdir, request.keep, used, removed)
        if request.runs:
            prune_runs(request.workdir, request.keep, living, removed)
            for run_id in sorted(ended, reverse=True)[request.keep :]:
                tidying.forget(request.workdir, run_id)
                removed["runs"] += 1
    frames.send(
        out,
        Pruned(
            trees=removed["trees"],
            environments=removed["environments"],
            blobs=removed["blobs"],
            runs=removed["runs"],
            bytes=removed["bytes"],
        ),
    )


def in_use() -> tuple[set[str], set[str]]:
    """Return the names of trees and environments that living runs of this host use, and the ids of those runs."""
    holder = lock.holder()
    living = {run_id for run_id, _ in processes.marks().values()}
    if holder is not None and holder.run_id is not None:
        living.add(holder.run_id)
    used = set()
    for run_id in living:
        for attempt in paths.attempts(run_id):
            known = paths.kept(run_id, attempt)
            if known is not None:
                used.update([known.tree, *known.overlays])
                used.update(part for word in known.program[:1] for part in word.split("/"))
    return used, living


def prune_trees(workdir: str, project: str, keep: int, used: set[str], removed: collections.Counter[str]) -> None:
    """Remove a project's trees, except those in use and the ``keep`` newest of the others."""
    trees = [tree for tree in paths.trees(workdir, project) if os.path.basename(tree) not in used]
    trees.sort(key=synced_at, reverse=True)
    for tree in trees[keep:]:
        shutil.rmtree(tree, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(tree + ".json")
        removed["trees"] += 1


def synced_at(tree: str) -> float:
    """Return when a tree was last synced, in seconds since the epoch; 0 if its list is missing."""
    with contextlib.suppress(OSError):
        return os.stat(tree + ".json").st_mtime
    return 0.0


def prune_blobs(store: blobs.Blobs, workdir: str, removed: collections.Counter[str]) -> None:
    """Remove the blobs that no tree uses, and abandoned partial blobs."""
    wanted: set[str] = set()
    for project in paths.projects(workdir):
        for tree in paths.trees(workdir, project):
            with contextlib.suppress(OSError, ValueError), open(tree + ".json") as file:
                wanted.update("%s-%o" % (entry[4], entry[2]) for entry in json.load(file) if entry[1] == "file")
    for folder, _, files in os.walk(store.folder):
        for name in files:
            path = os.path.join(folder, name)
            if name not in wanted and (not name.startswith(atomic.PREFIX) or atomic.abandoned(name)):
                removed["bytes"] += os.lstat(path).st_size
                removed["blobs"] += 1
                os.unlink(path)


def prune_environments(workdir: str, keep: int, used: set[str], removed: collections.Counter[str]) -> None:
    """Remove environments, except those in use and the ``keep`` newest of the others; then dangling links."""
    base = os.path.join(paths.own_dir(workdir), "envs")
    found = [os.path.join(base, name) for name in listed(base) if paths.TREE_ID.match(name) and name not in used]
    found.sort(key=built_at, reverse=True)
    for path in found[keep:]:
        removed["bytes"] += size_of(path)
        shutil.rmtree(path, ignore_errors=True)
        removed["environments"] += 1
    requests = os.path.join(base, "by-request")
    for name in listed(requests):
        if not os.path.exists(os.path.join(requests, name)) and not name.startswith(atomic.PREFIX):
            os.unlink(os.path.join(requests, name))


def built_at(folder: str) -> float:
    """Return when an environment was last used, in seconds since the epoch; 0 if it is incomplete.

    The control side touches the file ``ENVIRONMENT_READY`` when it asks for the environment.
    """
    with contextlib.suppress(OSError):
        return os.stat(os.path.join(folder, paths.ENVIRONMENT_READY)).st_mtime
    return 0.0


def prune_runs(workdir: str, keep: int, living: set[str], removed: collections.Counter[str]) -> None:
    """Remove ended runs, except the ``keep`` newest: their working folders, logs and state."""
    ended = [run_id for run_id in paths.run_ids() if run_id not in living]
    for run_id in sorted(ended, reverse=True)[keep:]:
        removed["bytes"] += forget(workdir, run_id)
        removed["runs"] += 1


def forget(workdir: str, run_id: str) -> int:
    """Remove a run's working folder, logs and state; return how many bytes they held."""
    work = paths.work_dir(workdir, run_id)
    size = 0
    for path in (work, work + paths.LOGS, paths.run_dir(run_id)):
        size += size_of(path)
        shutil.rmtree(path, ignore_errors=True)
    return size


def forget_old(workdir: str) -> None:
    """Remove ended runs unchanged for more than ``KEPT_SECONDS``, except the ``KEPT_RUNS`` newest of all runs."""
    older = sorted(paths.run_ids(), reverse=True)[KEPT_RUNS:]
    living: set[str] = in_use()[1] if older else set()
    for run_id in older:
        if run_id not in living and time.time() - changed_at(paths.run_dir(run_id)) > KEPT_SECONDS:
            forget(workdir, run_id)


def changed_at(folder: str) -> float:
    """Return when anything in a folder was last written, in seconds since the epoch."""
    times = [os.lstat(folder).st_mtime]
    for base, _, files in os.walk(folder):
        times += [os.lstat(os.path.join(base, name)).st_mtime for name in files]
    return max(times)


def size_of(folder: str) -> int:
    """Return the total size of all files below a folder, in bytes."""
    total = 0
    for base, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(base, name)).st_size
    return total
