"""An attempt's ``events.jsonl``, which can be written on a full disk too."""

from __future__ import annotations

import contextlib
import errno
import os
import time

from ...protocol.events import MOST_LINE, OF_NODES, Event, FailedToStart, Finished, RankFailed, to_line
from ...protocol.message import tagged
from ...protocol.shapes import Misshapen, decoded

BALLAST = 256 * 1024
URGENT = (RankFailed, FailedToStart, Finished)
OF_NODE = tagged("event", OF_NODES)
# How long the end of a run waits for room on its disk, in seconds.
LAST_WORDS = 10.0


class Journal:
    """Appends events. On a full disk they wait in memory; a file of ballast is given up for those that matter."""

    def __init__(self, folder: str) -> None:
        # Open for as long as the supervisor lives.
        self.file = os.open(os.path.join(folder, "events.jsonl"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.pending = b""
        self.ballast = os.path.join(folder, "ballast")
        with open(self.ballast, "wb") as file:
            file.write(b"\0" * BALLAST)

    def record(self, event: Event) -> None:
        """Append an event; it is on disk's way before anything that follows from it is done."""
        self.pending += (to_line(event) + "\n").encode("ascii")
        self.flush()
        if self.pending and isinstance(event, URGENT):
            self.release()
            self.flush()

    def flush(self) -> None:
        """Write what is pending, as far as the disk has room."""
        try:
            while self.pending:
                self.pending = self.pending[os.write(self.file, self.pending) :]
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise

    def release(self) -> None:
        """Give the ballast up."""
        with contextlib.suppress(OSError):
            os.unlink(self.ballast)

    def close(self) -> None:
        """Nothing more will be recorded. Waits a little for room if the disk is full even now."""
        self.release()
        deadline = time.monotonic() + LAST_WORDS
        self.flush()
        while self.pending and time.monotonic() < deadline:
            time.sleep(0.1)
            self.flush()
        os.close(self.file)


def events_from(path: str, offset: int) -> list[tuple[Event, int]]:
    """The whole events from byte ``offset`` of a file on, each with the offset behind it.

    What a power cut left of a line, NULs say, is passed over.
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
    """The event of a line, or None."""
    try:
        event: Event = OF_NODE(decoded(line.lstrip(b"\0"), MOST_LINE), "event")
        return event
    except Misshapen:
        return None


def read(folder: str) -> list[Event]:
    """The events of an attempt so far."""
    return [event for event, _ in events_from(os.path.join(folder, "events.jsonl"), 0)]
