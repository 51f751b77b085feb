"""End and remove the containers of runs.

While an attempt may have a container, the attempt's folder holds the command line that removes it. So the
container can be removed although supervisor and engine are gone, and none but the run's own is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time

from ...protocol.container.process import Contained
from ...protocol.shapes import Misshapen, decoded
from ..host import atomic, bounded, paths

# File in the attempt's folder that holds the attempt's container until it has been removed.
FILE = "container.json"
# Longest time that an engine may take to remove a container, in seconds.
LIMIT = 30.0
# How long an engine that refuses the removal is asked again, and the pause between two tries, in seconds.
PATIENCE, PAUSE = 10.0, 0.3


def note(folder: str, container: Contained) -> None:
    """Record the container of an attempt before it starts, and make the folders that the container mounts."""
    for each in container.folders:
        os.makedirs(os.path.expanduser(each), exist_ok=True)
    if container.remove:
        with atomic.written(os.path.join(folder, FILE)) as file:
            json.dump(container.to_wire(), file)


def noted(folder: str) -> Contained | None:
    """Return the container that an attempt may still have, or None."""
    try:
        with open(os.path.join(folder, FILE), "rb") as file:
            return Contained.from_wire(decoded(file.read()))
    except (OSError, ValueError, Misshapen):
        return None


def remove(folder: str) -> str | None:
    """End and remove the container that an attempt may still have; return what keeps it, or None.

    The record goes once the engine confirms that there is no such container.
    """
    container = noted(folder)
    if container is None:
        return None
    until = time.monotonic() + PATIENCE
    while True:
        try:
            bounded.run(container.remove, LIMIT)
        except bounded.NoAnswer as error:
            if "no such container" not in str(error).lower():
                if time.monotonic() < until:
                    # The engine itself may be removing it, and refuses meanwhile ("container state improper").
                    time.sleep(PAUSE)
                    continue
                sys.stderr.write("container %s: %s\n" % (container.name, error))
                return "container %s (%s)" % (container.name, error)
        forget(folder)
        return None


def forget(folder: str) -> None:
    """Delete the record of an attempt's container, which was removed or never started."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(folder, FILE))


def left(run_id: str | None = None) -> list[tuple[str, int]]:
    """Return the attempts that may still have a container, of one run or of all: run id and attempt."""
    return [
        (each, attempt)
        for each in (paths.run_ids() if run_id is None else [run_id])
        for attempt in paths.attempts(each)
        if os.path.exists(os.path.join(paths.attempt_dir(each, attempt), FILE))
    ]
