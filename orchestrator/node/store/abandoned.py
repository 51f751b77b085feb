"""Remove what transfers and builds that were killed left under construction.

This is apart from ``prune`` because every sync does it, and what ``prune`` imports takes a while to load.
"""

from __future__ import annotations

import os
import shutil

from ..host import atomic, paths


def remove_abandoned(workdir: str, project: str | None = None) -> None:
    """Remove incomplete items of ended processes of this host, from orch's folders and those of ``project``."""
    own = paths.own_dir(workdir)
    folders = [own] + [os.path.join(own, name) for name in ("blobs", "data", "envs/by-request")]
    if project is not None:
        folders.append(os.path.dirname(paths.tree_dir(workdir, project, "x")))
    for folder in folders:
        for name in listed(folder):
            if atomic.abandoned(name):
                path = os.path.join(folder, name)
                if os.path.isdir(path) and not os.path.islink(path):
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    os.unlink(path)


def listed(folder: str) -> list[str]:
    """Return the sorted names in a folder; none if it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
