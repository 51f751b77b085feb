"""The verb ``follow``: a run's events and logs as frames, from given byte offsets, until it ends.

It reads files that the supervisor and torchrun write, so a slow reader slows nobody but itself.
"""

import json
import os
import select
import time

from . import lock, paths, wire
from .refusal import Refused

POLL_SHORTEST, POLL_LONGEST = 0.02, 0.2
HEARTBEAT = 5.0


def answer(request, out):
    """Follow run ``run_id`` from ``offsets`` (stream name -> bytes already received)."""
    follow(request["run_id"], request["offsets"], out)


def follow(run_id, offsets, out):
    """Send what there is and what comes, and return when the run is over or the control machine gone."""
    run = paths.run_dir(run_id)
    if not os.path.isdir(run):
        raise Refused("there is no run %s on this node" % run_id, "no-run")
    Follower(run_id, run, offsets, out).follow()


class Stream:
    """One growing file: its name (``events``, ``torchrun``, ``0.stdout``), and how far it was sent."""

    def __init__(self, name, path, offset):
        self.name = name
        self.path = path
        self.offset = offset
        self.file = None

    def read(self):
        """The next piece, b"" where there is none yet."""
        if self.file is None:
            try:
                self.file = os.open(self.path, os.O_RDONLY)
            except FileNotFoundError:
                return b""
        return os.pread(self.file, wire.CHUNK, self.offset)


class Follower:
    """Sends one run's streams over ``out``."""

    def __init__(self, run_id, run, offsets, out):
        self.run_id = run_id
        self.run = run
        self.offsets = offsets
        self.out = out
        self.events = Stream("events", os.path.join(run, "events.jsonl"), offsets.get("events", 0))
        self.logs = []
        self.finished = False
        self.sent_at = time.monotonic()
        self.known = set()

    def follow(self):
        """Until everything is sent and the run is over."""
        self.add_log("torchrun", os.path.join(self.run, "logs", "torchrun.log"), {})
        self.recall_workers()
        pause = POLL_SHORTEST
        checked_at = time.monotonic()
        while True:
            # The order matters: a run that was over before the logs were read has nothing more to write.
            self.send_events()
            over = self.finished
            if self.send_logs():
                pause = POLL_SHORTEST
                continue
            if over:
                self.send({"type": "end"})
                return
            now = time.monotonic()
            if now - checked_at > 1.0:
                checked_at = now
                if not self.supervised():
                    self.send_events()
                    if not self.finished:
                        self.send({"type": "orphaned"})
                        return
            if now - self.sent_at > HEARTBEAT:
                self.send({"type": "beat"})
            # The end of stdin means that the control machine is gone.
            ready, _, _ = select.select([0], [], [], pause)
            if ready and not os.read(0, 4096):
                return
            pause = min(pause * 1.5, POLL_LONGEST)

    def send(self, value):
        """Send a JSON frame."""
        wire.write_all(self.out, wire.json_frame(value))
        self.sent_at = time.monotonic()

    def supervised(self):
        """Whether the run's supervisor is alive."""
        held = lock.holder()
        return held is not None and held.get("run_id", self.run_id) == self.run_id

    def recall_workers(self):
        """Learn the logs named by events that were sent over an earlier connection."""
        if not self.events.offset:
            return
        with open(self.events.path, "rb") as file:
            for line in file.read(self.events.offset).splitlines():
                self.learn(json.loads(line.decode("ascii")))

    def send_events(self):
        """Send the events that were written since."""
        piece = self.events.read()
        whole = piece[: piece.rfind(b"\n") + 1]
        for line in whole.splitlines():
            self.events.offset += len(line) + 1
            event = json.loads(line.decode("ascii"))
            self.send({"type": "event", "offset": self.events.offset, "event": event})
            self.learn(event)

    def learn(self, event):
        """Take from an event what it says of streams and of the end."""
        if event["event"] == "worker":
            for name in ("stdout", "stderr"):
                path = os.path.join(self.run, event["logs"], name + ".log")
                about = {"rank": event["rank"], "local_rank": event["local_rank"]}
                self.add_log("%d.%s" % (event["local_rank"], name), path, about)
        self.finished = self.finished or event["event"] == "finished"

    def add_log(self, name, path, about):
        """Begin to follow a log and say so."""
        if name in self.known:
            return
        self.known.add(name)
        stream_id = len(self.logs)
        self.logs.append(Stream(name, path, self.offsets.get(name, 0)))
        self.send(dict(about, type="stream", id=stream_id, name=name))

    def send_logs(self):
        """Send a piece of each log in turn; whether there was any."""
        any_sent = False
        for stream_id, stream in enumerate(self.logs):
            piece = stream.read()
            if piece:
                wire.write_all(self.out, wire.log_frame(stream_id, stream.offset, piece))
                stream.offset += len(piece)
                self.sent_at = time.monotonic()
                any_sent = True
        return any_sent
