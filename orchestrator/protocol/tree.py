"""The entries of a tree of files and the tree's id, as both sides compute them."""

from __future__ import annotations

import hashlib
import json

from .shapes import many, one_of, row, whole
from .terms import BYTES, PATH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    # Path, kind (file, link, dir), permission bits, size in bytes, and the SHA-256 of a file or the target of a
    # link.
    Row = tuple[str, str, int, int, str]

ROW = row(PATH, one_of("file", "link", "dir"), whole(0, 0o7777), BYTES, PATH)
ROWS = many(ROW, 10_000_000)


def tree_id(rows: Iterable[Row]) -> str:
    """Return the id of a tree: a hash of the paths, kinds, modes and contents of all rows, in their order."""
    digest = hashlib.sha256()
    for path, kind, mode, _size, about in rows:
        digest.update(json.dumps([path, kind, mode, about]).encode("ascii") + b"\n")
    return digest.hexdigest()[:32]
