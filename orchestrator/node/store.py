"""The verb ``store``: receive a tree, verify every byte of it, and put it in place with one rename.

Request: ``{"workdir", "project", "tree": id, "entries": [[path, kind, mode, size, sha256 or target], ...]}``
with kind ``file``, ``link`` or ``dir``; the bytes of the files follow in that order as data frames.
"""

import hashlib
import os
import shutil
import tempfile

from . import paths, wire
from .refusal import Refused

MANIFEST = ".orch-tree.json"


def answer(request, out):
    """Receive one tree; answers ``{"stored": tree id}``, raises Refused for what must not be written."""
    target = paths.tree_dir(request["workdir"], request["project"], request["tree"])
    parent = os.path.dirname(target)
    for entry in request["entries"]:
        check_path(entry[0])
    os.makedirs(parent, exist_ok=True)
    building = tempfile.mkdtemp(prefix=".tmp-", dir=parent)
    try:
        receive(request["entries"], building)
        os.chmod(building, 0o755)
        if not os.path.isdir(target):
            os.rename(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    wire.write_all(out, wire.json_frame({"stored": request["tree"]}))


def check_path(path):
    """Raises Refused for a path that could leave the tree."""
    parts = path.split("/")
    if not path or path.startswith("/") or "\0" in path or any(part in ("", ".", "..") for part in parts):
        raise Refused("refused the path %r: it could leave the tree" % path, "path")


def receive(entries, root):
    """Write the entries below ``root``. Links come last, so that nothing is ever written through one."""
    incoming = Incoming()
    for path, kind, mode, size, about in entries:
        there = os.path.join(root, path)
        if kind == "link":
            continue
        if kind == "dir":
            os.makedirs(there, exist_ok=True)
            continue
        os.makedirs(os.path.dirname(there), exist_ok=True)
        with open(there, "xb") as file:
            digest = incoming.copy(size, file)
        if digest != about:
            raise Refused("%r arrived damaged, or changed while it was sent" % path, "damaged")
        os.chmod(there, 0o755 if mode & 0o100 else 0o644)
    for path, kind, _mode, _size, about in entries:
        if kind == "link":
            there = os.path.join(root, path)
            os.makedirs(os.path.dirname(there), exist_ok=True)
            os.symlink(about, there)


class Incoming:
    """The data frames of stdin as one run of bytes."""

    def __init__(self):
        self.buffer = b""

    def copy(self, size, file):
        """Copy the next ``size`` bytes to ``file``; returns their SHA-256. Refused if they end early."""
        digest = hashlib.sha256()
        while size:
            if not self.buffer:
                frame = wire.read_frame(0)
                if frame is None:
                    raise Refused("the transfer broke off", "broken")
                self.buffer = frame[1]
            piece, self.buffer = self.buffer[:size], self.buffer[size:]
            digest.update(piece)
            file.write(piece)
            size -= len(piece)
        return digest.hexdigest()
