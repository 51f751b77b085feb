"""The verb ``follow``: send an attempt's events and logs from given offsets on, until the attempt ends.

It reads the files that the supervisor and torchrun write, so a slow control machine slows neither of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time

from ...protocol import frames
from ...protocol.events import Finished, WorkerFound
from ...protocol.refusal import Refused
from ...protocol.run import Beat, End, Follow, Following, Journaled, Stream, SupervisorGone
from ..host import lock, paths
from . import dead_man_switch, journal, logcut, presence, sample, stop

# Shortest and longest pause between two reads, in seconds.
POLL_SHORTEST, POLL_LONGEST = 0.02, 0.2
# Interval between two beats, which tell the control machine that the node is there, in seconds.
BEAT = 2.0


def answer(request: Follow, out: int) -> None:
    """Follow the requested attempt, or the newest on this node; raises Refused if the node does not have it."""
    # A fresh listing of the folder: NFS may remember for a minute that an attempt is not there.
    known = paths.attempts(request.run_id)
    follow(request, request.attempt or (known or [1])[-1], out)


def follow(request: Follow, attempt: int, out: int) -> None:
    """Send an attempt's events and logs; return when the attempt is over and all is sent.

    Return earlier if the supervisor is gone, or without ``request.wait``. The process exits when stdin ends.
    Raises Refused if the node does not have the attempt.
    """
    folder = paths.attempt_dir(request.run_id, attempt)
    if not os.path.isdir(folder):
        raise Refused("there is no run %s on this node" % request.run_id, "no-run")
    frames.send(out, Following(time=time.time()))
    threading.Thread(target=hear_control, args=(request.run_id, folder), daemon=True).start()
    Follower(request, attempt, folder, out).follow()


def hear_control(run_id: str, folder: str) -> None:
    """Note each sign of life from the control machine, and exit the process when stdin ends.

    ``!SECONDS`` and a newline request a stop with that grace period, because an SSH server may refuse a second
    session.
    """
    heard = b""
    try:
        while True:
            piece = os.read(0, 4096)
            if not piece:
                break
            with contextlib.suppress(OSError):
                dead_man_switch.touch(folder)
            heard = (heard + piece)[-64:]
            if b"!" in heard and heard.endswith(b"\n"):
                grace = float(heard[heard.rindex(b"!") + 1 :])
                heard = b""
                threading.Thread(target=stop.end, args=(run_id, grace), daemon=True).start()
    except (OSError, ValueError):
        pass
    os._exit(0)


class Log:
    """A growing file. ``name``: of its stream, ``0.stdout``. ``offset``: number of bytes sent or passed over."""

    def __init__(self, name: str, path: str, offset: int) -> None:
        self.name = name
        self.path = path
        self.offset = offset
        self.file: int | None = None
        self.gone = False

    def replaced(self) -> None:
        """Note that an elastic torchrun has replaced the file; one that was not opened before is lost."""
        self.gone = self.file is None

    def read(self) -> bytes:
        """Return the next piece; b"" if there is none yet."""
        if self.gone:
            return b""
        if self.file is None:
            try:
                self.file = os.open(self.path, os.O_RDONLY)
            except FileNotFoundError:
                return b""
        piece = os.pread(self.file, frames.CHUNK, self.offset)
        if piece[:1] == b"\0":
            # NULs may be a hole in a log that was cut.
            self.offset = logcut.next_data(self.file, self.offset)
            piece = os.pread(self.file, frames.CHUNK, self.offset)
        elif b"\0" in piece:
            piece = piece[: piece.index(b"\0")]
        return piece


class Follower:
    """Sends the events and logs of one attempt to ``out``."""

    def __init__(self, request: Follow, attempt: int, folder: str, out: int) -> None:
        self.run_id = request.run_id
        self.attempt = attempt
        self.folder = folder
        self.out = out
        self.ranks = request.ranks
        self.wait = request.wait
        self.tail = request.tail
        self.offsets = dict(request.offsets)
        if request.since is not None:
            self.offsets.update(sizes_at(folder, time.time() - request.since))
        self.events_known = self.offsets.pop("events", 0)
        self.events_sent = 0
        self.events_path = os.path.join(folder, "events.jsonl")
        self.events_offset = 0
        self.logs: list[Log] = []
        self.known: set[str] = set()
        self.finished = False
        self.beat_at = time.monotonic()

    def follow(self) -> None:
        """Send all there is and, with ``wait``, all that follows until the attempt or its supervisor ends."""
        if self.ranks is None:
            self.add_log("torchrun", os.path.join(self.folder, "logs", "torchrun.log"), None)
        pause = POLL_SHORTEST
        checked_at = time.monotonic()
        while True:
            # Events are read before logs: once a run has ended, its logs no longer grow.
            self.send_events()
            over = self.finished
            sent = self.send_logs()
            now = time.monotonic()
            if now - self.beat_at > BEAT:
                self.beat_at = now
                frames.send(self.out, Beat(time=time.time(), sample=sample.last(self.folder)))
            if sent:
                pause = POLL_SHORTEST
                continue
            if over or not self.wait:
                frames.send(self.out, End())
                return
            if now - checked_at > 1.0:
                checked_at = now
                if not self.supervised():
                    self.send_events()
                    if not self.finished:
                        frames.send(self.out, SupervisorGone(rebooted=paths.rebooted(self.run_id, self.attempt)))
                        return
            time.sleep(pause)
            pause = min(pause * 1.5, POLL_LONGEST)

    def supervised(self) -> bool:
        """Return whether the attempt's supervisor is alive."""
        if paths.is_shared():
            return presence.alive(self.folder)
        held = lock.holder()
        return held is not None and (
            held.error is not None or (held.run_id, held.attempt) == (self.run_id, self.attempt)
        )

    def send_events(self) -> None:
        """Send the new events, except those that the control side knows, and follow the logs of new workers."""
        for event, offset in journal.events_from(self.events_path, self.events_offset):
            self.events_offset = offset
            self.events_sent += 1
            if self.events_sent > self.events_known:
                frames.send(self.out, Journaled(event=event))
            if isinstance(event, WorkerFound) and (self.ranks is None or event.rank in self.ranks):
                for name in ("stdout", "stderr"):
                    path = os.path.join(self.folder, event.logs, name + ".log")
                    self.add_log(frames.stream_name(event.local_rank, event.restart, name), path, event)
            self.finished = self.finished or isinstance(event, Finished)

    def add_log(self, name: str, path: str, worker: WorkerFound | None) -> None:
        """Begin to follow a log and announce its stream. ``worker``: its worker's event; None for torchrun."""
        if name in self.known:
            return
        self.known.add(name)
        for other in self.logs:
            if other.path == path:
                other.replaced()
        stream_id = len(self.logs)
        begin = self.offsets.get(name)
        if begin is None:
            begin = 0 if self.tail is None else last_part(path, self.tail)
        self.logs.append(Log(name, path, begin))
        if worker is None:
            frames.send(self.out, Stream(id=stream_id, name=name))
        else:
            about = Stream(
                id=stream_id,
                name=name,
                rank=worker.rank,
                local_rank=worker.local_rank,
                restart=worker.restart,
            )
            frames.send(self.out, about)

    def send_logs(self) -> bool:
        """Send one piece of each log; return whether there was any."""
        any_sent = False
        for stream_id, stream in enumerate(self.logs):
            piece = stream.read()
            if piece:
                frames.write_all(self.out, frames.log_frame(stream_id, stream.offset, piece))
                stream.offset += len(piece)
                any_sent = True
        return any_sent


def last_part(path: str, size: int) -> int:
    """Return the offset of the first whole line in the last ``size`` bytes of a file."""
    try:
        with open(path, "rb") as file:
            begin = max(0, os.fstat(file.fileno()).st_size - size)
            file.seek(begin)
            return begin and begin + file.read(size).find(b"\n") + 1
    except OSError:
        return 0


def sizes_at(folder: str, moment: float) -> dict[str, int]:
    """Return the length of each log at ``moment``, from the notes that the supervisor makes every other second."""
    sizes: dict[str, int] = {}
    try:
        with open(os.path.join(folder, "sizes.jsonl")) as lines:
            for line in lines:
                mark = json.loads(line)
                if mark["time"] > moment:
                    break
                sizes = mark["sizes"]
    except (OSError, ValueError):
        pass
    return sizes
