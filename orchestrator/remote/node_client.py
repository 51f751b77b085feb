"""One node's part in one attempt: started or taken up, heard over as many connections as that takes, ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from orchestrator import errors
from orchestrator.core.run.output import NodeSample, Output
from orchestrator.protocol import events, frames, run
from orchestrator.protocol.events import Event
from orchestrator.protocol.shapes import MOST
from orchestrator.remote.node import Call, Node

# A node speaks every two seconds; after three silent turns the connection is tried anew.
SILENCE = 6.0
# How long a node may take to copy its working folder, in seconds.
START_TIMEOUT = 600.0
# How long a node whose connection broke in the middle of a start is looked for, in seconds.
ABANDON_TIME, ABANDON_PAUSE = 20.0, 0.5
# How long what an orphaned attempt left behind may take to end, in seconds.
SWEEP_GRACE = 1.0

Heard = Event | Output | NodeSample


@dataclass
class _Stream:
    """A log on the node, and how far it has come."""

    output: Output
    offset: int


class SshNodeClient:
    """A node's part in an attempt. ``start()`` or ``follow()``, then ``hear()``; after a loss ``reconnect()``.

    ``request.offsets`` name what was received before. ``beginning`` is what ``start()`` asks for. ``timeout``:
    after how many silent seconds the node will be given up.
    """

    def __init__(
        self, node: Node, request: run.Follow, timeout: float, beginning: run.Start | None = None
    ) -> None:
        self.node = node
        self.name = node.name
        self.request = request
        self.timeout = timeout
        self.beginning = beginning
        self.offsets: dict[str, int] = dict(request.offsets)
        self.heard_at = time.monotonic()
        self._call: Call | None = None
        self._streams: dict[int, _Stream] = {}
        # Node clock minus this one's; the quickest frame tells it best.
        self._skew: float | None = None

    @property
    def silent(self) -> float:
        """Seconds since the node was last heard."""
        return time.monotonic() - self.heard_at

    def start(self) -> None:
        """Start the attempt there; returns when its supervisor runs. Raises OrchError."""
        assert self.beginning is not None, "a run that is taken up is not started"
        call = self.node.call(self.beginning)
        call.answer(run.Started.from_wire, START_TIMEOUT)
        self._heard(call)

    def follow(self) -> None:
        """Take up an attempt that goes on, or has ended, there; raises OrchError."""
        self._heard(self.node.call(self.request.replace(offsets=dict(self.offsets))))

    def reconnect(self) -> None:
        """Reach the node again and go on where it was heard last; raises OrchError."""
        # The last try ends with the time that the node has.
        left = self.timeout - self.silent
        self.node.connection.reopen(max(1.0, min(self._try_limit, left)))
        self.follow()

    def hear(self, put: Callable[[Heard], None]) -> run.SupervisorGone | None:
        """Give all that the node says to ``put`` until its part is over; then whether its supervisor was gone.

        Raises ConnectionLost when the connection is not good any more, OrchError when the node talks nonsense.
        """
        assert self._call is not None
        call = self._call
        self._streams.clear()
        for kind, payload in call.frames(min(SILENCE, self.timeout / 2)):
            self.heard_at = time.monotonic()
            if kind == frames.LOG:
                self._hear_log(call, payload, put)
            elif kind == frames.JSON:
                message = call.shaped(payload, run.FOLLOWED)
                if isinstance(message, run.SupervisorGone):
                    return message
                if isinstance(message, run.End):
                    return None
                self._hear_message(message, put)
            else:
                raise call.nonsense("data that nobody asked for")
        raise errors.ConnectionLost("its follower ended", host=self.name)

    def ping(self) -> None:
        """Show the node that this side is there."""
        if self._call is not None:
            # The reading side notices a loss, and mends it.
            with suppress(errors.OrchError):
                self._call.channel.write(b".")

    def stop(self, grace: float) -> None:
        """Have the attempt ended there within ``grace`` seconds; raises OrchError.

        Where the server lets no further session in, the one that follows carries the word.
        """
        try:
            self.node.stop(self.request.run_id, grace)
        except errors.PreflightError:
            if self._call is None:
                raise
            self._call.channel.write(b"!%g\n" % grace)

    def sweep(self) -> int:
        """End what an orphaned attempt left behind; how many processes that were. Raises OrchError."""
        return self.node.stop(self.request.run_id, SWEEP_GRACE).killed

    def fence(self) -> None:
        """Reach the node, whatever became of it, and end the run there; raises OrchError."""
        self.node.connection.reopen(self._try_limit)
        self.node.stop(self.request.run_id, 0.0)

    def undo(self, broken: bool) -> None:
        """End what was started there. ``broken``: the connection is made again first; it is tried for a while."""
        if not broken:
            with suppress(errors.OrchError):
                self.stop(0.0)
            return
        until = time.monotonic() + ABANDON_TIME
        while time.monotonic() < until:
            with suppress(errors.OrchError):
                self.fence()
                return
            time.sleep(ABANDON_PAUSE)

    def hang_up(self) -> None:
        """Hear no more."""
        if self._call is not None:
            self._call.channel.close()

    @property
    def _try_limit(self) -> float:
        """How long one try to connect may take: as long as the first one might."""
        return self.node.connection.settings.connect_timeout

    def _heard(self, call: Call) -> None:
        self._call = call
        self.heard_at = time.monotonic()

    def _hear_log(self, call: Call, payload: bytes, put: Callable[[Heard], None]) -> None:
        if len(payload) < frames.LOG_HEAD.size:
            raise call.nonsense("a piece of a log without its head")
        stream_id, offset = frames.LOG_HEAD.unpack_from(payload)
        stream = self._streams.get(stream_id)
        if stream is None or not stream.offset <= offset < MOST:
            raise call.nonsense(f"a piece of log {stream_id} at byte {offset}")
        data = payload[frames.LOG_HEAD.size :]
        if offset > stream.offset:
            put(replace(stream.output, skipped=offset - stream.offset))
        stream.offset = offset + len(data)
        self.offsets[stream.output.name] = stream.offset
        put(replace(stream.output, data=data))

    def _hear_message(self, message: run.Told, put: Callable[[Heard], None]) -> None:
        if isinstance(message, run.Stream):
            self._streams[message.id] = self._stream(message)
        elif isinstance(message, run.Beat | run.Following):
            skew = message.time - time.time()
            self._skew = skew if self._skew is None else max(self._skew, skew)
            if isinstance(message, run.Beat) and message.sample is not None:
                busy = message.sample
                put(NodeSample(self.name, busy.cpu, busy.memory_used, busy.memory_total, busy.gpus))
        elif isinstance(message, run.Journaled):
            event: events.Event = message.event
            self.offsets["events"] = self.offsets.get("events", 0) + 1
            put(event.replace(node=self.name, time=event.time - (self._skew or 0.0)))

    def _stream(self, stream: run.Stream) -> _Stream:
        """The log that a node announces; its name is worked out here, whatever the node calls it."""
        kind = stream.name.rpartition(".")[2]
        if stream.local_rank is None or kind not in ("stdout", "stderr"):
            output = Output(self.name, None, None, "torchrun", b"")
        else:
            output = Output(self.name, stream.rank, stream.local_rank, kind, b"", stream.restart)
        return _Stream(output, max(self.offsets.get(output.name, 0), stream.first))
