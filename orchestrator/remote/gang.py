"""All nodes of one run: start them together, hear them, stop them, fetch what they wrote."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator import errors
from orchestrator.core.events import Event
from orchestrator.node import wire
from orchestrator.remote.fanout import on_all
from orchestrator.remote.node import Call, Node

# Frames held for a slow reader; beyond this the SSH window, and then the node's reader, holds back.
QUEUE_FRAMES = 64
GRACE = 5.0


@dataclass(frozen=True)
class Output:
    """A piece of what a process printed. ``stream``: ``stdout``, ``stderr``, or ``torchrun`` for its own words.

    ``rank`` is None for torchrun, and where it is not known which rank a worker had.
    """

    node: str
    rank: int | None
    local_rank: int | None
    stream: str
    data: bytes


@dataclass(frozen=True)
class _Closed:
    """A node has nothing more to say; ``error`` if that came unexpectedly."""

    node: str
    error: errors.OrchError | None


class Gang:
    """The nodes of one run. ``start()``, then ``next()`` until it returns None; ``stop()`` at any time."""

    def __init__(self, nodes: Sequence[Node], run_id: str) -> None:
        self.nodes = nodes
        self.run_id = run_id
        self._queue: queue.SimpleQueue[tuple[str, bytes, bytes] | Event | _Closed] = queue.SimpleQueue()
        self._room = threading.Semaphore(QUEUE_FRAMES)
        self._streams: dict[tuple[str, int], Mapping[str, Any]] = {}
        self._speaking = {node.name for node in nodes}
        self._finished: set[str] = set()
        self._started = threading.Event()

    def start(self, requests: Mapping[str, Mapping[str, Any]]) -> list[errors.OrchError]:
        """Start every node with its request. If one refuses, those that began are stopped again.

        Returns the refusals; none means that the run has begun.
        """

        def start_one(node: Node) -> Call:
            call = node.call("start", requests[node.name])
            call.answer()
            return call

        outcomes = on_all(self.nodes, start_one)
        self._started.set()
        refusals = [outcome for outcome in outcomes if isinstance(outcome, errors.OrchError)]
        for node, outcome in zip(self.nodes, outcomes, strict=True):
            if isinstance(outcome, errors.OrchError):
                self._speaking.discard(node.name)
            else:
                self._listen(node, outcome)
        if refusals:
            self._stop_nodes(0.0)
        return refusals

    def _listen(self, node: Node, call: Call) -> None:
        def read() -> None:
            error = None
            try:
                for kind, payload in call.frames():
                    # Only frames are held back: a stop must get through however slow the reader is.
                    self._room.acquire()
                    self._queue.put((node.name, kind, payload))
            except errors.OrchError as caught:
                error = caught
            self._queue.put(_Closed(node.name, error))

        threading.Thread(target=read, daemon=True, name=f"follow-{node.name}").start()

    def next(self) -> Event | Output | None:
        """The next thing that happened on any node; None when all nodes have ended."""
        while self._speaking:
            item = self._queue.get()
            if isinstance(item, Event):
                return item
            if isinstance(item, _Closed):
                self._speaking.discard(item.node)
                if item.node not in self._finished:
                    reason = str(item.error.message) if item.error else "its follower ended"
                    return Event(time.time(), "node_lost", item.node, {"reason": reason})
                continue
            self._room.release()
            heard = self._hear(*item)
            if heard is not None:
                return heard
        return None

    def _hear(self, node: str, kind: bytes, payload: bytes) -> Event | Output | None:
        if kind == wire.LOG:
            stream_id, _offset = wire.LOG_HEAD.unpack_from(payload)
            about = self._streams[node, stream_id]
            name = about["name"].rpartition(".")[2]
            data = payload[wire.LOG_HEAD.size :]
            return Output(node, about.get("rank"), about.get("local_rank"), name, data)
        value = json.loads(payload)
        if value["type"] == "stream":
            self._streams[node, value["id"]] = value
        elif value["type"] == "event":
            event = Event.from_dict(value["event"], node)
            if event.kind == "finished":
                self._finished.add(node)
            return event
        elif value["type"] == "orphaned":
            self._finished.add(node)
            return Event(time.time(), "orphaned", node, {})
        return None

    def stop(self, reason: str, grace: float = GRACE) -> None:
        """Ask every node to end the run within ``grace`` seconds. Returns at once; safe in a signal handler.

        What becomes of it is heard through ``next()``.
        """

        def work() -> None:
            self._started.wait()
            self._queue.put(Event(time.time(), "stop_requested", None, {"reason": reason, "grace": grace}))
            self._stop_nodes(grace)

        threading.Thread(target=work, daemon=True, name="stop").start()

    def _stop_nodes(self, grace: float) -> None:
        request = {"run_id": self.run_id, "grace": grace}
        running = [node for node in self.nodes if node.name not in self._finished]
        on_all(running, lambda node: node.ask("stop", request))
