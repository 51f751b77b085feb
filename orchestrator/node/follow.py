"""The verb ``follow``: an attempt's events and logs as frames, from where they were left, until it ends.

It reads files that the supervisor and torchrun write, so a slow reader slows nobody but itself.
"""

import contextlib
import json
import os
import threading
import time

from . import journal, lease, lock, logcut, paths, sample, sweep, wire
from .refusal import Refused

POLL_SHORTEST, POLL_LONGEST = 0.02, 0.2
# How often the control machine hears that the node is there, in seconds.
BEAT = 2.0


def answer(request, out):
    """Follow ``attempt`` of run ``run_id`` (null: its newest here).

    Further keys, all optional: ``offsets`` (stream name -> bytes already received; ``events`` -> how many of
    them), ``ranks`` (only these; then torchrun's own words stay away), ``since`` (seconds ago, or null),
    ``wait`` (false: end when all there is has been sent), ``tail`` (of logs without an offset only so many bytes).
    """
    attempt = request.get("attempt") or (paths.attempts(request["run_id"]) or [1])[-1]
    follow(request["run_id"], attempt, request, out)


def follow(run_id, attempt, request, out):
    """Send what there is and what comes, and return when the attempt is over or the control machine gone."""
    folder = paths.attempt_dir(run_id, attempt)
    if not os.path.isdir(folder):
        raise Refused("there is no run %s on this node" % run_id, "no-run")
    wire.write_all(out, wire.json_frame({"type": "following", "time": time.time()}))
    threading.Thread(target=hear_control, args=(run_id, folder), daemon=True).start()
    Follower(run_id, attempt, folder, request, out).follow()


def hear_control(run_id, folder):
    """Note every sign of life from the control machine; with the end of stdin it is gone, and so are we.

    ``!SECONDS`` and a newline ask for a stop: a server may not let a second session in for that.
    """
    heard = b""
    try:
        while True:
            piece = os.read(0, 4096)
            if not piece:
                break
            with contextlib.suppress(OSError):
                lease.touch(folder)
            heard = (heard + piece)[-64:]
            if b"!" in heard and heard.endswith(b"\n"):
                grace = float(heard[heard.rindex(b"!") + 1 :])
                heard = b""
                threading.Thread(target=sweep.end, args=(run_id, grace), daemon=True).start()
    except (OSError, ValueError):
        pass
    os._exit(0)


class Stream:
    """One growing file: its name (``torchrun``, ``0.stdout``), and how far it was sent."""

    def __init__(self, name, path, offset):
        self.name = name
        self.path = path
        self.offset = offset
        self.file = None
        self.gone = False

    def replaced(self):
        """An elastic torchrun has put another file in its place: what was not opened before is gone."""
        self.gone = self.file is None

    def read(self):
        """The next piece, b"" where there is none yet."""
        if self.gone:
            return b""
        if self.file is None:
            try:
                self.file = os.open(self.path, os.O_RDONLY)
            except FileNotFoundError:
                return b""
        piece = os.pread(self.file, wire.CHUNK, self.offset)
        if piece[:1] == b"\0":
            # A hole that was cut into a log that had grown too long, perhaps.
            self.offset = logcut.next_data(self.file, self.offset)
            piece = os.pread(self.file, wire.CHUNK, self.offset)
        elif b"\0" in piece:
            piece = piece[: piece.index(b"\0")]
        return piece


class Follower:
    """Sends one attempt's streams over ``out``."""

    def __init__(self, run_id, attempt, folder, request, out):
        self.run_id = run_id
        self.attempt = attempt
        self.folder = folder
        self.out = out
        self.ranks = request.get("ranks")
        self.wait = request.get("wait", True)
        self.tail = request.get("tail")
        self.offsets = dict(request.get("offsets") or {})
        if request.get("since") is not None:
            self.offsets.update(sizes_at(folder, time.time() - request["since"]))
        self.events_known = self.offsets.pop("events", 0)
        self.events_sent = 0
        self.events_path = os.path.join(folder, "events.jsonl")
        self.events_offset = 0
        self.logs = []
        self.known = set()
        self.finished = False
        self.beat_at = time.monotonic()

    def follow(self):
        """Until everything is sent and the attempt is over."""
        if self.ranks is None:
            self.add_log("torchrun", os.path.join(self.folder, "logs", "torchrun.log"), {})
        pause = POLL_SHORTEST
        checked_at = time.monotonic()
        while True:
            # The order matters: a run that was over before the logs were read has nothing more to write.
            self.send_events()
            over = self.finished
            sent = self.send_logs()
            now = time.monotonic()
            if now - self.beat_at > BEAT:
                self.beat_at = now
                self.send({"type": "beat", "time": time.time(), "sample": sample.last(self.folder)})
            if sent:
                pause = POLL_SHORTEST
                continue
            if over or not self.wait:
                self.send({"type": "end"})
                return
            if now - checked_at > 1.0:
                checked_at = now
                if not self.supervised():
                    self.send_events()
                    if not self.finished:
                        self.send({"type": "orphaned", "rebooted": paths.rebooted(self.run_id, self.attempt)})
                        return
            time.sleep(pause)
            pause = min(pause * 1.5, POLL_LONGEST)

    def send(self, value):
        """Send a JSON frame."""
        wire.write_all(self.out, wire.json_frame(value))

    def supervised(self):
        """Whether the attempt's supervisor is alive."""
        held = lock.holder()
        return held is not None and (
            "error" in held or (held.get("run_id"), held.get("attempt")) == (self.run_id, self.attempt)
        )

    def send_events(self):
        """Send the events that were written since; those the control machine knows only teach us the logs."""
        for event, offset in journal.events_from(self.events_path, self.events_offset):
            self.events_offset = offset
            self.events_sent += 1
            if self.events_sent > self.events_known:
                self.send({"type": "event", "event": event})
            if event["event"] == "worker" and (self.ranks is None or event["rank"] in self.ranks):
                about = {key: event.get(key, 0) for key in ("rank", "local_rank", "restart")}
                for name in ("stdout", "stderr"):
                    path = os.path.join(self.folder, event["logs"], name + ".log")
                    self.add_log(wire.stream_name(about["local_rank"], about["restart"], name), path, about)
            self.finished = self.finished or event["event"] == "finished"

    def add_log(self, name, path, about):
        """Begin to follow a log and say so."""
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
        self.logs.append(Stream(name, path, begin))
        self.send(dict(about, type="stream", id=stream_id, name=name))

    def send_logs(self):
        """Send a piece of each log in turn; whether there was any."""
        any_sent = False
        for stream_id, stream in enumerate(self.logs):
            piece = stream.read()
            if piece:
                wire.write_all(self.out, wire.log_frame(stream_id, stream.offset, piece))
                stream.offset += len(piece)
                any_sent = True
        return any_sent


def last_part(path, size):
    """Where the first whole line of the last ``size`` bytes of a file begins."""
    try:
        with open(path, "rb") as file:
            begin = max(0, os.fstat(file.fileno()).st_size - size)
            file.seek(begin)
            return begin and begin + file.read(size).find(b"\n") + 1
    except OSError:
        return 0


def sizes_at(folder, moment):
    """How long each log was at a time, by the marks that the supervisor made every other second."""
    sizes = {}
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
