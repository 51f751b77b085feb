"""Find what earlier work left on the node: abandoned locks of torch, and orch's trees and runs."""

from __future__ import annotations

import glob
import os
import time

from ...protocol.facts import StoredThere
from ..host import paths

# Age in seconds from which a lock counts as abandoned; torch builds an extension within minutes. torch's FileBaton
# waits for a lock without a limit (torch/utils/file_baton.py), so a lock left by a killed build makes every later
# import hang.
OLD_LOCK = 900.0


def locks() -> tuple[tuple[str, float], ...]:
    """Return the abandoned locks of torch's extension builds: ``((path, age in seconds), ...)``."""
    base = os.environ.get("TORCH_EXTENSIONS_DIR") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "torch_extensions"
    )
    found = []
    for depth in ("*/lock", "*/*/lock"):
        for path in glob.glob(os.path.join(glob.escape(base), depth)):
            age = time.time() - os.lstat(path).st_mtime
            if age > OLD_LOCK:
                found.append((path, age))
    return tuple(found)


def kept(workdir: str, project: str | None) -> StoredThere:
    """Return how many trees and working folders the workdir holds, and the tree of ``project`` synced last."""
    work = os.path.expanduser(workdir)
    mine = os.path.join(work, "runs", paths.hostname())
    return StoredThere(
        path=work,
        trees=len(paths.trees(work)),
        runs=len([name for name in _listed(mine) if not name.endswith(paths.LOGS)]),
        newest=paths.newest_tree(work, project) if project else None,
    )


def _listed(folder: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError:
        return []
