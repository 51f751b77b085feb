"""Hears one node of a run to its end, over as many connections as that takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from orchestrator import errors
from orchestrator.protocol import events, frames, run
from orchestrator.protocol.events import Event
from orchestrator.protocol.shapes import MOST
from orchestrator.remote.node import Call, Node

# A node speaks every two seconds; after three silent turns the connection is tried anew.
SILENCE = 6.0
PAUSE_SHORTEST, PAUSE_LONGEST = 0.2, 3.0
# With every node silent, the fault is more likely this machine's network: it is given this many timeouts.
PATIENCE = 10


@dataclass(frozen=True)
class Output:
    """A piece of what a process printed. ``stream``: ``stdout``, ``stderr``, or ``torchrun`` for its own words.

    ``rank`` is None for torchrun, and where it is not known which rank a worker had. ``restart`` counts how often
    an elastic torchrun started it again. ``skipped``: so many bytes that came next are not to be had any more.
    """

    node: str
    rank: int | None
    local_rank: int | None
    stream: str
    data: bytes
    restart: int = 0
    skipped: int = 0

    @property
    def name(self) -> str:
        """How frames and offsets call the stream."""
        return (
            self.stream
            if self.local_rank is None
            else frames.stream_name(self.local_rank, self.restart, self.stream)
        )


@dataclass
class _Stream:
    """A log on the node, and how far it has come."""

    output: Output
    offset: int


@dataclass(frozen=True)
class Sample:
    """How busy a node is. ``cpu`` and GPU use are shares of 1, memory in bytes; GPUs are (busy, used, total)."""

    node: str
    cpu: float
    memory_used: int
    memory_total: int
    gpus: tuple[tuple[float, int, int], ...]


@dataclass(frozen=True)
class Closed:
    """A node has nothing more to say."""

    node: str


Item = Event | Output | Sample | Closed


class Follower:
    """One node's frames, turned into items for ``put``. ``follow(call)`` runs in a thread of its own.

    ``request.offsets`` name what was received before. ``company()`` tells
    whether another node has been heard lately, or there is no other; ``stopping()`` the grace, in seconds, of a
    stop that was asked for. ``passive``: nothing is ever ended there.
    """

    def __init__(
        self,
        node: Node,
        request: run.Follow,
        put: Callable[[Item], None],
        *,
        timeout: float,
        company: Callable[[], bool],
        stopping: Callable[[], float | None],
        passive: bool = False,
    ) -> None:
        self.node = node
        self.name = node.name
        self.request = request
        self.offsets: dict[str, int] = dict(request.offsets)
        self.put = put
        self.timeout = timeout
        self.company = company
        self.stopping = stopping
        self.heard_at = time.monotonic()
        self.passive = passive
        self.connected = True
        self.over = False
        self.finished = False
        self._call: Call | None = None
        self._streams: dict[int, _Stream] = {}
        # Node clock minus this one's; the quickest frame tells it best.
        self._skew: float | None = None

    def follow(self, call: Call) -> None:
        """Hear the node until the run is over there, or the node is lost."""
        current: Call | None = call
        while current is not None:
            self._call = current
            try:
                self._hear(current)
                break
            except errors.ConnectionLost as error:
                self.connected = False
                current = self._reconnect(error)
            except errors.OrchError as error:
                self._give_up(error.message)
                break
            except Exception as error:
                # Whatever it was that orch could not cope with: no run may wait for this thread for ever.
                self._give_up(f"{type(error).__name__}: {error}")
                break
        self.over = True
        self.put(Closed(self.name))

    def _give_up(self, reason: str) -> None:
        """Nothing that this node says helps any more: it counts as lost."""
        self.connected = False
        if self._call is not None:
            self._call.channel.close()
        self.put(events.NodeLost(time=time.time(), node=self.name, reason=reason))
        if not self.passive:
            threading.Thread(target=self._fence, daemon=True, name=f"fence-{self.name}").start()

    def end(self, grace: float) -> None:
        """Have the run ended there; raises OrchError.

        Where the server lets no further session in, the one that follows carries the word.
        """
        try:
            self.node.stop(self.request.run_id, grace)
        except errors.PreflightError:
            call = self._call
            if call is None or not self.connected:
                raise
            call.channel.write(b"!%g\n" % grace)

    def ping(self) -> None:
        """Show the node that this side is there."""
        call = self._call
        if call is not None and self.connected and not self.over:
            try:
                call.channel.write(b".")
            except errors.OrchError:
                # The reading side notices and mends it.
                return

    def _hear(self, call: Call) -> None:
        """Items until the node says that it is over; raises an OrchError when the connection is not good."""
        self._streams.clear()
        for kind, payload in call.frames(min(SILENCE, self.timeout / 2)):
            self.heard_at = time.monotonic()
            if kind == frames.LOG:
                self._hear_log(call, payload)
            elif kind == frames.JSON:
                if self._hear_message(call.shaped(payload, run.FOLLOWED)):
                    return
            else:
                raise call.nonsense("data that nobody asked for")
        raise errors.ConnectionLost("its follower ended", host=self.name)

    def _hear_log(self, call: Call, payload: bytes) -> None:
        if len(payload) < frames.LOG_HEAD.size:
            raise call.nonsense("a piece of a log without its head")
        stream_id, offset = frames.LOG_HEAD.unpack_from(payload)
        stream = self._streams.get(stream_id)
        if stream is None or not stream.offset <= offset < MOST:
            raise call.nonsense(f"a piece of log {stream_id} at byte {offset}")
        data = payload[frames.LOG_HEAD.size :]
        if offset > stream.offset:
            self.put(replace(stream.output, skipped=offset - stream.offset))
        stream.offset = offset + len(data)
        self.offsets[stream.output.name] = stream.offset
        self.put(replace(stream.output, data=data))

    def _stream(self, stream: run.Stream) -> _Stream:
        """The log that a node announces; its name is worked out here, whatever the node calls it."""
        kind = stream.name.rpartition(".")[2]
        if stream.local_rank is None or kind not in ("stdout", "stderr"):
            output = Output(self.name, None, None, "torchrun", b"")
        else:
            output = Output(self.name, stream.rank, stream.local_rank, kind, b"", stream.restart)
        return _Stream(output, max(self.offsets.get(output.name, 0), stream.first))

    def _hear_message(self, message: run.Told) -> bool:
        """Take one message; whether it was the last."""
        if isinstance(message, run.Stream):
            self._streams[message.id] = self._stream(message)
        elif isinstance(message, run.Beat | run.Following):
            skew = message.time - time.time()
            self._skew = skew if self._skew is None else max(self._skew, skew)
            if isinstance(message, run.Beat) and message.sample is not None:
                busy = message.sample
                self.put(Sample(self.name, busy.cpu, busy.memory_used, busy.memory_total, busy.gpus))
        elif isinstance(message, run.Happened):
            event = message.event
            self.offsets["events"] = self.offsets.get("events", 0) + 1
            self.finished = self.finished or isinstance(event, events.Finished)
            self.put(event.replace(node=self.name, time=event.time - (self._skew or 0.0)))
        elif isinstance(message, run.SupervisorGone):
            self.put(events.Orphaned(time=time.time(), node=self.name, rebooted=message.rebooted))
            if not self.passive:
                self._sweep()
            return True
        return isinstance(message, run.End)

    def _sweep(self) -> None:
        """The supervisor is gone without a word: end what it may have left."""
        answer = self.node.stop(self.request.run_id, 1.0)
        if answer.killed:
            self.put(events.Swept(time=time.time(), node=self.name, processes=answer.killed))

    def _reconnect(self, error: errors.OrchError) -> Call | None:
        """A new connection and a call that goes on where the old one stopped; None if the node is lost."""
        self.put(events.Reconnecting(time=time.time(), node=self.name, reason=error.message))
        # A reader that paused for an hour was not listening: that is no silence of the node's.
        self.heard_at = max(self.heard_at, time.monotonic() - SILENCE)
        pause = PAUSE_SHORTEST
        while True:
            try:
                return self._resume()
            except errors.OrchError as caught:
                error = caught
            silent = time.monotonic() - self.heard_at
            if silent > self.timeout and (self.company() or silent > PATIENCE * self.timeout):
                reason = f"no answer for {silent:.0f} s: {error.message}"
                self.put(events.NodeLost(time=time.time(), node=self.name, reason=reason))
                if not self.passive:
                    fence = threading.Thread(target=self._fence, daemon=True, name=f"fence-{self.name}")
                    fence.start()
                return None
            time.sleep(pause)
            pause = min(2 * pause, PAUSE_LONGEST)

    @property
    def _try_limit(self) -> float:
        """How long one try to connect may take: as long as the first one might."""
        return self.node.connection.settings.connect_timeout

    def _resume(self) -> Call:
        # The last try ends with the time that the node has.
        left = self.timeout - (time.monotonic() - self.heard_at)
        self.node.connection.reopen(max(1.0, min(self._try_limit, left)))
        grace = self.stopping()
        if grace is not None:
            self.end(grace)
        call = self.node.call(self.request.replace(offsets=dict(self.offsets)))
        self.heard_at = time.monotonic()
        self.connected = True
        self.put(events.Reconnected(time=time.time(), node=self.name))
        return call

    def _fence(self) -> None:
        """End the run on a lost node as soon as it answers again: it has been given up, or replaced."""
        while True:
            time.sleep(PAUSE_LONGEST)
            try:
                self.node.connection.reopen(self._try_limit)
                self.node.stop(self.request.run_id, 0.0)
            except errors.OrchError:
                continue
            self.put(events.Fenced(time=time.time(), node=self.name))
            return
