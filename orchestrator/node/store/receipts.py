"""Receipts: a node's record of each set of data that has arrived whole, to compare without the list of files.

A receipt is named after the data's folder and the id of their entries, and holds each file's size and modification
time. So a run can ask for many files with one id, and files that were changed or removed later are noticed.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os

from ...protocol.tree import tree_id
from ..host import atomic, paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...protocol.facts import DataCheck
    from ...protocol.tree import Row


def write(workdir: str, root: str, entries: Sequence[Row]) -> None:
    """Record that all entries are below ``root``, an absolute path. It replaces receipts of older versions."""
    # Without a receipt the node is asked file by file, which costs only time.
    with contextlib.suppress(OSError):
        lines = []
        for path, kind, _mode, _size, _about in entries:
            status = os.lstat(os.path.join(root, path))
            lines.append([path, status.st_size, status.st_mtime_ns] if kind == "file" else [path, None, None])
        paths.private(paths.own_dir(workdir))
        target = receipt(workdir, root, tree_id(entries))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        for other in glob.glob(glob.escape(target.rpartition("-")[0]) + "-*"):
            names = {line[0] for line in held(other) or []}
            if other != target and not names.isdisjoint(line[0] for line in lines):
                os.unlink(other)
        with atomic.written(target) as file:
            json.dump(lines, file)


def shows(check: DataCheck) -> bool:
    """Return whether the data are on this node."""
    root = os.path.realpath(os.path.expanduser(check.root))
    for group in check.files:
        if not any(os.path.exists(os.path.join(root, path)) for path in group):
            return False
    if check.tree is None:
        return os.path.isdir(root)
    lines = held(receipt(check.workdir, root, check.tree))
    return lines is not None and all(unchanged(root, *line) for line in lines)


def unchanged(root: str, path: str, size: int | None, modified: int | None) -> bool:
    """Return whether a file is as its receipt says; for a folder or link, whether it exists."""
    try:
        status = os.lstat(os.path.join(root, path))
    except OSError:
        return False
    return size is None or (status.st_size == size and status.st_mtime_ns == modified)


def held(name: str) -> list[tuple[str, int | None, int | None]] | None:
    """Return path, size and modification time of each file of a receipt; None if it is missing or damaged."""
    try:
        with open(name) as file:
            return [(str(path), size, modified) for path, size, modified in json.load(file)]
    except (OSError, ValueError, TypeError):
        return None


def receipt(workdir: str, root: str, tree: str) -> str:
    """Return the path of a receipt. Hosts that share the workdir share it only for data below the workdir."""
    whose = "" if inside(root, workdir) else paths.hostname()
    folder = hashlib.sha256(os.fsencode(root) + b"\0" + os.fsencode(whose)).hexdigest()[:24]
    return os.path.join(paths.own_dir(workdir), "data", "receipt-%s-%s" % (folder, tree))


def inside(root: str, workdir: str) -> bool:
    """Return whether ``root`` is below the workdir; only then do hosts that share the workdir share ``root``."""
    return root.startswith(os.path.join(os.path.realpath(os.path.expanduser(workdir)), ""))
