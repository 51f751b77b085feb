"""The verbs ``store`` and ``verify``: build a tree from existing and received blobs, and check a tree.

One rename puts a finished tree in place.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import zlib

from ...protocol import frames
from ...protocol.refusal import Refused
from ...protocol.transfer import Change, MissingBlobs, Stock, Stored, Verified
from ...protocol.tree import tree_id as tree_id_of
from ..host import atomic, paths
from ..host import shared_disk as disk
from . import blobs
from .abandoned import remove_abandoned

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...protocol.transfer import Store, Verify
    from ...protocol.tree import Row

# Longest name that common file systems accept, in bytes.
MOST_NAME = 255


def answer(request: Store, out: int) -> None:
    """Report whether the node has the tree, and which one was synced last; receive a missing tree unless ``look``.

    Raises Refused for paths that must not be written, and if the list of entries or a file arrives damaged.
    """
    workdir, project, tree_id = request.workdir, request.project, request.tree
    target = paths.tree_dir(workdir, project, tree_id)
    have = os.path.isdir(target)
    base = tree_id if have else paths.newest_tree(workdir, project)
    disk_id = None if request.look else disk.of(workdir)
    frames.send(out, Stock(have=have, disk_id=disk_id, base=base))
    if base is not None:
        listing = json.dumps(entries_of(workdir, project, base))
        frames.write_all(out, frames.data_frame(zlib.compress(listing.encode("ascii"))))
    if have:
        touch(target)
    if have or request.look:
        return
    change = frames.receive(0, Change, deflated=True)
    if change is None:
        return
    entries = joined(entries_of(workdir, project, base) if base is not None else [], change)
    for entry in entries:
        check_path(entry[0])
    if tree_id_of(entries) != tree_id:
        raise Refused("the list of files arrived damaged", "damaged")
    store = blobs.Blobs(workdir)
    with store.held():
        remove_abandoned(workdir, project)
        receive(store, entries, out)
        build(store, entries, target)
    frames.send(out, Stored(stored=tree_id))


def joined(known: Sequence[Row], change: Change) -> list[Row]:
    """Return the entries of ``known`` after a change, sorted as the control side sorts them."""
    found = {entry[0]: entry for entry in known}
    for path in change.removed:
        found.pop(path, None)
    found.update((entry[0], entry) for entry in change.entries)
    return sorted(found.values(), key=lambda entry: os.fsencode(entry[0]))


def receive(store: blobs.Blobs, entries: Sequence[Row], out: int) -> None:
    """Request the blobs that are missing, and store them; raises Refused if one arrives damaged."""
    wanted: dict[tuple[str, int], tuple[str, int]] = {}
    for path, kind, mode, size, about in entries:
        if kind == "file" and not store.has(about, mode, size):
            wanted.setdefault((about, mode), (path, size))
    frames.send(out, MissingBlobs(wanted=tuple((sha, mode, size) for (sha, mode), (_, size) in wanted.items())))
    incoming = blobs.Incoming()
    for (sha, mode), (path, size) in wanted.items():
        try:
            store.receive(sha, mode, size, incoming)
        except Refused as error:
            raise Refused("%r: %s" % (path, error), error.kind) from None


def build(store: blobs.Blobs, entries: Sequence[Row], target: str) -> None:
    """Build the tree under a temporary name, then rename it to ``target``; raises Refused if two names clash.

    Links are made last, so that nothing is written through one.
    """
    parent = os.path.dirname(target)
    paths.private(parent)
    building = os.path.join(parent, atomic.partial_name())
    os.mkdir(building, 0o755)
    try:
        made = set()
        for path, kind, mode, _size, about in sorted(entries, key=lambda entry: entry[1] == "link"):
            there = os.path.join(building, path)
            folder = there if kind == "dir" else os.path.dirname(there)
            if folder not in made:
                os.makedirs(folder, exist_ok=True)
                made.add(folder)
            try:
                if kind == "link":
                    os.symlink(about, there)
                elif kind == "file":
                    store.link(about, mode, there)
            except Refused as error:
                raise Refused("%r: %s" % (path, error), error.kind) from None
            except FileExistsError:
                raise Refused(
                    "%r: the name clashes with another: the file system ignores case" % path, "path"
                ) from None
        # The list is written first, because every tree in place must have one.
        with atomic.written(target + ".json") as file:
            json.dump(entries, file, separators=(",", ":"))
        with contextlib.suppress(FileExistsError):
            if not os.path.isdir(target):
                os.rename(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def check_path(path: str) -> None:
    """Raise Refused if a path could leave the tree or has a name longer than ``MOST_NAME`` bytes."""
    parts = path.split("/")
    if not path or path.startswith("/") or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise Refused("refused the path %r: it could leave the tree" % path, "path")
    long = [part for part in parts if len(os.fsencode(part)) > MOST_NAME]
    if long:
        raise Refused("refused the path %r: a name has more than %d bytes" % (path, MOST_NAME), "path")


def entries_of(workdir: str, project: str, tree_id: str) -> list[Row]:
    """Return the entries of an existing tree, from its list."""
    with open(paths.tree_dir(workdir, project, tree_id) + ".json") as file:
        return [(path, kind, mode, size, about) for path, kind, mode, size, about in json.load(file)]


def touch(tree: str) -> None:
    """Mark a tree as the one synced last."""
    with contextlib.suppress(OSError):
        os.utime(tree + ".json")


def verify(request: Verify, out: int) -> None:
    """Answer the verb ``verify``: hash every file of a tree and report what differs from its list."""
    root = paths.tree_dir(request.workdir, request.project, request.tree)
    entries = {entry[0]: entry for entry in entries_of(request.workdir, request.project, request.tree)}
    seen = {}
    for folder, folders, files in os.walk(root):
        for name in files + [name for name in folders if os.path.islink(os.path.join(folder, name))]:
            seen[os.path.relpath(os.path.join(folder, name), root)] = os.path.join(folder, name)
    wanted = {path: entry for path, entry in entries.items() if entry[1] != "dir"}
    changed = [path for path in wanted if path in seen and not same(wanted[path], seen[path])]
    verified = Verified(
        changed=tuple(sorted(changed)),
        missing=tuple(sorted(set(wanted) - set(seen))),
        added=tuple(sorted(set(seen) - set(wanted))),
    )
    frames.send(out, verified)


def same(entry: Row, path: str) -> bool:
    """Return whether the file or link at ``path`` has the mode, size and contents of ``entry``."""
    _path, kind, mode, size, about = entry
    if kind == "link":
        return os.path.islink(path) and os.readlink(path) == about
    status = os.lstat(path)
    if os.path.islink(path) or status.st_size != size or status.st_mode & 0o777 != mode:
        return False
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while True:
            piece = file.read(blobs.PIECE)
            if not piece:
                return digest.hexdigest() == about
            digest.update(piece)
