"""A supervisor's sign of life, and the request to stop, as files: for askers that are on another machine.

The state of a batch job lies on a shared disk, which is often NFS. There, a new file may stay unseen for a minute,
and the attributes of a known one be stale, but opening a file fetches its current contents and attributes
(close-to-open consistency, nfs(5)). So the supervisor makes both files at its start, and readers open them each
time. Ages are measured by the file server's clock.
"""

from __future__ import annotations

import contextlib
import os
import time

BEAT, STOP, CLOCK = "beat", "stop", "clock"
# Interval of beats, and of looks at the stop file, in seconds.
BEAT_EVERY, LOOK_EVERY = 2.0, 0.5
# A supervisor whose last beat is older than this is gone, in seconds: usually, and while it still copies the tree.
GONE_AFTER, GONE_BEFORE_START = 20.0, 600.0


class Presence:
    """The supervisor's side. ``folder``: of the attempt."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.beat_at = -BEAT_EVERY
        self.looked_at = -LOOK_EVERY

    def beat(self) -> None:
        """Renew the beat if it is due; a full disk is no reason to fail."""
        now = time.monotonic()
        if now - self.beat_at >= BEAT_EVERY:
            self.beat_at = now
            with contextlib.suppress(OSError):
                _touched(os.path.join(self.folder, BEAT))

    def asked_to_stop(self) -> float | None:
        """Return the grace, in seconds, of a requested stop; None without a request, or between looks."""
        now = time.monotonic()
        if now - self.looked_at < LOOK_EVERY:
            return None
        self.looked_at = now
        try:
            with open(os.path.join(self.folder, STOP)) as file:
                return float(file.read())
        except (OSError, ValueError):
            return None


def begin(folder: str) -> None:
    """Make both files in a new attempt's folder. Raises OSError."""
    _written(os.path.join(folder, STOP), b"", os.O_EXCL)
    _touched(os.path.join(folder, BEAT))


def alive(folder: str) -> bool:
    """Return whether the supervisor of the attempt in ``folder`` has given a sign of life of late."""
    try:
        handle = os.open(os.path.join(folder, BEAT), os.O_RDONLY)
        try:
            beat = os.fstat(handle).st_mtime
        finally:
            os.close(handle)
        started = os.path.exists(os.path.join(folder, "events.jsonl"))
        return _touched(os.path.join(folder, CLOCK)) - beat < (GONE_AFTER if started else GONE_BEFORE_START)
    except OSError:
        return False


def ask_to_stop(folder: str, grace: float) -> None:
    """Ask the supervisor of the attempt in ``folder`` to end it within ``grace`` seconds. Raises OSError."""
    _written(os.path.join(folder, STOP), b"%g\n" % grace, os.O_TRUNC)


def _touched(path: str) -> float:
    """Set a file's modification time to the file server's present time, and return that."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.utime(handle)
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)


def _written(path: str, data: bytes, flag: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | flag, 0o600)
    try:
        os.write(handle, data)
    finally:
        os.close(handle)
