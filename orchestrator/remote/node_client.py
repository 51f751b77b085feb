"""The engine's ``NodeClient`` over SSH: start, follow and end one node's part in one attempt."""

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

# Longest silence before the connection is replaced, in seconds: three times a node's beat of two.
SILENCE = 6.0
# Longest time for a node to copy the tree into its working folder, in seconds.
START_TIMEOUT = 600.0
# How long to try to reach a node whose connection broke during a start, and the pause between tries, in seconds.
ABANDON_TIME, ABANDON_PAUSE = 20.0, 0.5
# How long the processes that an orphaned attempt left may take to end, in seconds.
SWEEP_GRACE = 1.0

Heard = Event | Output | NodeSample


@dataclass
class _Stream:
    """A log on the node, and the offset of the next byte expected."""

    output: Output
    offset: int


class SshNodeClient:
    """A node's part in an attempt. ``start()`` or ``follow()``, then ``hear()``; after a loss ``reconnect()``.

    ``request.offsets``: what was received before. ``start_request``: what ``start()`` sends. ``timeout``: seconds
    of silence after which the node is given up.
    """

    def __init__(
        self, node: Node, request: run.Follow, timeout: float, start_request: run.Start | None = None
    ) -> None:
        self.node = node
        self.name = node.name
        self.request = request
        self.timeout = timeout
        self.start_request = start_request
        self.offsets: dict[str, int] = dict(request.offsets)
        self.heard_at = time.monotonic()
        self._call: Call | None = None
        self._streams: dict[int, _Stream] = {}
        # The node's clock minus this machine's, in seconds; the frame with the least delay gives the best value.
        self._skew: float | None = None

    @property
    def silent(self) -> float:
        """Seconds since the node was last heard."""
        return time.monotonic() - self.heard_at

    def start(self) -> None:
        """Start the attempt on the node; return once its supervisor runs. Raises OrchError."""
        assert self.start_request is not None, "start() needs the request that begins the attempt"
        call = self.node.call(self.start_request)
        call.answer(run.Started.from_wire, START_TIMEOUT)
        self._heard(call)

    def follow(self) -> None:
        """Follow an attempt that runs, or has ended, on the node. Raises OrchError."""
        self._heard(self.node.call(self.request.replace(offsets=dict(self.offsets))))

    def reconnect(self) -> None:
        """Reconnect and continue from the offsets that have arrived. Raises OrchError."""
        # The last try ends when the node's timeout does.
        left = self.timeout - self.silent
        self.node.connection.reopen(max(1.0, min(self._try_limit, left)))
        self.follow()

    def hear(self, put: Callable[[Heard], None]) -> run.SupervisorGone | None:
        """Pass what the node sends to ``put`` until its part ends; return SupervisorGone if the supervisor died.

        Raises ConnectionLost when the connection fails, OrchError when the node breaks the protocol.
        """
        try:
            return self._hear(put)
        except errors.ConnectionLost:
            # While ``put`` waits for a slow reader, nothing is read. That time is no silence of the node.
            self.heard_at = max(self.heard_at, time.monotonic() - SILENCE)
            raise

    def ping(self) -> None:
        """Tell the node that the control process is there."""
        if self._call is not None:
            # The thread in ``hear`` notices a broken connection, which is then replaced.
            with suppress(errors.OrchError):
                self._call.channel.write(b".")

    def stop(self, grace: float) -> None:
        """End the attempt on the node within ``grace`` seconds. Raises OrchError.

        Where the server refuses a further session, the stop travels in the session that follows the run.
        """
        try:
            self.node.stop(self.request.run_id, grace)
        except errors.PreflightError:
            if self._call is None:
                raise
            self._call.channel.write(b"!%g\n" % grace)

    def sweep(self) -> int:
        """End the processes that an orphaned attempt left; return their number. Raises OrchError."""
        return self.node.stop(self.request.run_id, SWEEP_GRACE).killed

    def fence(self) -> None:
        """Reconnect to a node in an unknown state, and end the run there. Raises OrchError."""
        self.node.connection.reopen(self._try_limit)
        self.node.stop(self.request.run_id, 0.0)

    def undo(self, broken: bool) -> None:
        """End what was started on the node. If ``broken``, reconnect first, trying for ABANDON_TIME seconds."""
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
        """Stop listening to the node."""
        if self._call is not None:
            self._call.channel.close()

    @property
    def _try_limit(self) -> float:
        """Longest duration of one try to connect, in seconds: that of the first connection."""
        return self.node.connection.settings.connect_timeout

    def _heard(self, call: Call) -> None:
        self._call = call
        self.heard_at = time.monotonic()

    def _hear(self, put: Callable[[Heard], None]) -> run.SupervisorGone | None:
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
                raise call.protocol_error("data that was not asked for")
        raise errors.ConnectionLost("its follower ended", host=self.name)

    def _hear_log(self, call: Call, payload: bytes, put: Callable[[Heard], None]) -> None:
        if len(payload) < frames.LOG_HEAD.size:
            raise call.protocol_error("a piece of a log without its header")
        stream_id, offset = frames.LOG_HEAD.unpack_from(payload)
        stream = self._streams.get(stream_id)
        if stream is None or not stream.offset <= offset < MOST:
            raise call.protocol_error(f"a piece of log {stream_id} at an unexpected byte, {offset}")
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
                load = busy.cpu, busy.memory_used, busy.memory_total, busy.gpus
                put(NodeSample(self.name, *load, message.time, busy.ranks, busy.links, busy.gpu_paces))
        elif isinstance(message, run.Journaled):
            event: events.Event = message.event
            self.offsets["events"] = self.offsets.get("events", 0) + 1
            put(event.replace(node=self.name, time=event.time - (self._skew or 0.0)))

    def _stream(self, stream: run.Stream) -> _Stream:
        """Return the log that a node announces; its name is composed here, whatever name the node sends."""
        kind = stream.name.rpartition(".")[2]
        if stream.local_rank is None or kind not in ("stdout", "stderr"):
            output = Output(self.name, None, None, "torchrun", b"")
        else:
            output = Output(self.name, stream.rank, stream.local_rank, kind, b"", stream.restart)
        return _Stream(output, max(self.offsets.get(output.name, 0), stream.first))
