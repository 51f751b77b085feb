"""The journal of an attempt, ``events.jsonl``, which records the end of a run even on a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
import time

from ...protocol.events import MOST_LINE, OF_NODES, Event, FailedToStart, Finished, RankFailed, to_line
from ...protocol.message import tagged
from ...protocol.shapes import Misshapen, decoded

# Size of the ballast file in bytes.
BALLAST = 256 * 1024
# Events for which the ballast is deleted.
URGENT = (RankFailed, FailedToStart, Finished)
OF_NODE = tagged("event", OF_NODES)
# How long ``close`` waits for space on the disk, in seconds.
LAST_WORDS = 10.0


class Journal:
    """Appends events to the journal.

    On a full disk, events wait in memory; for ``URGENT`` ones, a ballast file is deleted to make space.
    """

    def __init__(self, folder: str) -> None:
        # The file stays open for as long as the supervisor lives.
        self.file = os.open(os.path.join(folder, "events.jsonl"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.pending = b""
        self.ballast = os.path.join(folder, "ballast")
        with open(self.ballast, "wb") as file:
            file.write(b"\0" * BALLAST)

    def record(self, event: Event) -> None:
        """Append an event and write it at once, so that the journal is never behind the actions that follow it."""
        self.pending += (to_line(event) + "\n").encode("ascii")
        self.flush()
        if self.pending and isinstance(event, URGENT):
            self.release()
            self.flush()

    def flush(self) -> None:
        """Write pending events as far as the disk has space; raises OSError for any other failure."""
        try:
            while self.pending:
                self.pending = self.pending[os.write(self.file, self.pending) :]
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise

    def release(self) -> None:
        """Delete the ballast file."""
        with contextlib.suppress(OSError):
            os.unlink(self.ballast)

    def close(self) -> None:
        """Close the journal; while the disk is full, first wait up to ``LAST_WORDS`` seconds for space."""
        self.release()
        deadline = time.monotonic() + LAST_WORDS
        self.flush()
        while self.pending and time.monotonic() < deadline:
            time.sleep(0.1)
            self.flush()
        os.close(self.file)


def events_from(path: str, offset: int) -> list[tuple[Event, int]]:
    """Return the complete events from byte ``offset`` of a file on, each with the offset behind it.

    Lines that are not events are skipped; a power cut may leave a broken line, or NULs before one.
    """
    found = []
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            for line in file.read().split(b"\n")[:-1]:
                offset += len(line) + 1
                event = parsed(line)
                if event is not None:
                    found.append((event, offset))
    except FileNotFoundError:
        pass
    return found


def parsed(line: bytes) -> Event | None:
    """Return the event in a line, or None if there is none."""
    try:
        event: Event = OF_NODE(decoded(line.lstrip(b"\0"), MOST_LINE), "event")
        return event
    except Misshapen:
        return None


def read(folder: str) -> list[Event]:
    """Return the events of an attempt so far."""
    return [event for event, _ in events_from(os.path.join(folder, "events.jsonl"), 0)]
