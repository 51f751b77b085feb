"""All nodes of one attempt of a run: start them together or join them, hear them, stop them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator import errors
from orchestrator.protocol.events import Event, StopFailed, StopRequested
from orchestrator.protocol.run import Follow, Start, Started
from orchestrator.remote.fanout import on_all
from orchestrator.remote.follower import SILENCE, Closed, Follower, Item, Output, Sample
from orchestrator.remote.node import Call, Node

# Pieces of output held for a slow reader; beyond this the SSH window, and then the node's reader, holds back.
QUEUE_PIECES = 64
# How long a run may take to end by itself when it is stopped, in seconds: by its user, and because of a failure.
GRACE, FAILURE_GRACE = 30.0, 3.0
PING_INTERVAL = 4.0
# How long a node whose connection broke in the middle of a start is looked for, in seconds.
ABANDON_TIME = 20.0
# How long a node may take to copy its working folder, in seconds.
START_TIMEOUT = 600.0


class Gang:
    """The nodes of one attempt. ``start()`` or ``join()``, then ``next()`` until it returns None.

    ``stop()`` and ``leave()`` may be called at any time. ``node_timeout``: after how many silent seconds a node
    is lost. ``tail``: of logs of which nothing is known yet, only the last so many bytes are heard.
    """

    def __init__(
        self, nodes: Sequence[Node], run_id: str, attempt: int, node_timeout: float, tail: int | None = None
    ) -> None:
        self.nodes = nodes
        self.run_id = run_id
        self.attempt = attempt
        self.node_timeout = node_timeout
        self.tail = tail
        self.left = False
        self._queue: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(QUEUE_PIECES)
        self._followers: dict[str, Follower] = {}
        self._begun = threading.Event()
        self._grace: float | None = None

    def start(self, requests: Mapping[str, Start]) -> list[errors.OrchError]:
        """Start every node with its request. If one refuses, those that began are stopped again.

        Returns the refusals; none means that the run has begun.
        """

        def start_one(node: Node) -> Call:
            call = node.call(requests[node.name])
            call.answer(Started.from_wire, START_TIMEOUT)
            return call

        return self._begin(start_one, {})

    def join(self, offsets: Mapping[str, Mapping[str, int]]) -> list[errors.OrchError]:
        """Follow a run that goes on, or that has ended, from where ``offsets`` says; returns as ``start`` does."""

        def follow_one(node: Node) -> Call:
            return node.call(self._request(node.name, offsets))

        return self._begin(follow_one, offsets, joining=True)

    def _begin(
        self, begin: Any, offsets: Mapping[str, Mapping[str, int]], joining: bool = False
    ) -> list[errors.OrchError]:
        outcomes = on_all(self.nodes, begin)
        refusals = [outcome for outcome in outcomes if isinstance(outcome, errors.OrchError)]
        calls = {
            node: outcome
            for node, outcome in zip(self.nodes, outcomes, strict=True)
            if not isinstance(outcome, errors.OrchError)
        }
        for node in calls:
            self._followers[node.name] = Follower(
                node,
                self._request(node.name, offsets),
                self._put,
                timeout=self.node_timeout,
                company=lambda name=node.name: self._others_heard(name),  # type: ignore[misc]
                stopping=lambda: self._grace,
            )
        self._begun.set()
        if refusals:
            if not joining:
                self._stop_nodes(0.0)
                lost = {each.host for each in refusals if isinstance(each, errors.ConnectionLost)}
                on_all([node for node in self.nodes if node.name in lost], self._abandon)
            return refusals
        for node, call in calls.items():
            follower = self._followers[node.name]
            threading.Thread(target=follower.follow, args=(call,), daemon=True, name=f"follow-{node.name}").start()
        threading.Thread(target=self._ping, daemon=True, name="ping").start()
        return []

    def _abandon(self, node: Node) -> None:
        """End what a node may have started after its connection broke; it is tried for a while."""
        until = time.monotonic() + ABANDON_TIME
        while time.monotonic() < until:
            try:
                node.connection.reopen(node.connection.settings.connect_timeout)
                node.stop(self.run_id, 0.0)
                return
            except errors.OrchError:
                time.sleep(0.5)

    def _request(self, node: str, offsets: Mapping[str, Mapping[str, int]]) -> Follow:
        known = dict(offsets.get(node, {}))
        return Follow(run_id=self.run_id, attempt=self.attempt, offsets=known, tail=self.tail)

    def _put(self, item: Item) -> None:
        if isinstance(item, Output):
            # Only output is held back: a stop must get through however slow the reader is.
            self._room.acquire()
        self._queue.put(item)

    def _ping(self) -> None:
        while not all(follower.over for follower in self._followers.values()):
            for follower in self._followers.values():
                follower.ping()
            time.sleep(PING_INTERVAL)

    def _others_heard(self, name: str) -> bool:
        others = [each for each in self._followers.values() if each.name != name and not each.over]
        now = time.monotonic()
        lately = min(SILENCE, self.node_timeout / 2)
        # With nobody else to hear there is no telling whose network is down.
        return any(now - each.heard_at < lately for each in others) or (not others and len(self._followers) > 1)

    def next(self) -> Event | Output | Sample | None:
        """The next thing that happens on any node; None when all nodes have ended, or after ``leave()``."""
        while not self.left:
            if self._queue.empty() and all(follower.over for follower in self._followers.values()):
                return None
            item = self._queue.get()
            if isinstance(item, Output):
                self._room.release()
            if item is not None and not isinstance(item, Closed):
                return item
        return None

    def late_events(self) -> list[Event]:
        """What has come since ``next()`` returned None: a lost node that was reached again, say."""
        found = []
        while not self._queue.empty():
            item = self._queue.get()
            if isinstance(item, Event):
                found.append(item)
        return found

    def stop(self, reason: str, grace: float = GRACE, *, by_user: bool = False) -> None:
        """Ask every node to end the run within ``grace`` seconds. Returns at once; safe in a signal handler.

        What becomes of it is heard through ``next()``. A node that cannot be reached now is told when it can.
        """

        def work() -> None:
            self._begun.wait()
            self._queue.put(StopRequested(time=time.time(), reason=reason, grace=grace, by_user=by_user))
            self._grace = grace if self._grace is None else min(grace, self._grace)
            self._stop_nodes(grace)

        threading.Thread(target=work, daemon=True, name="stop").start()

    def leave(self) -> None:
        """Hear no more and leave the run going; ``next()`` returns None. Safe in a signal handler."""
        self.left = True
        self._queue.put(None)

    def _stop_nodes(self, grace: float) -> None:
        running = [each for each in self._followers.values() if each.connected and not each.finished]

        def end(follower: Follower) -> None:
            try:
                follower.end(grace)
            except errors.ConnectionLost:
                # It is told as soon as it is reached again.
                return
            except errors.OrchError as error:
                self._queue.put(StopFailed(time=time.time(), node=follower.name, reason=error.message))

        on_all(running, end, limit=len(running))
