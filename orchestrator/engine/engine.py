"""Carries out what the state machine of a run decides, and tells it what became of that.

One loop, in the thread that calls ``run()``, owns the state, the record and the display. Whatever blocks has a
thread of its own, which says what it has to say through the inbox; see the table in ``docs/architecture.md``.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from orchestrator.core.diagnosis.diagnosis import Diagnosis
from orchestrator.core.run import actions, inputs
from orchestrator.core.run.actions import Action, Finish, Prepare, Timer
from orchestrator.core.run.inputs import Input, NotPrepared, Prepared
from orchestrator.core.run.machine import Step, step
from orchestrator.core.run.output import NodeSample, Output
from orchestrator.core.run.result import RunResult
from orchestrator.errors import ConnectionLost, OrchError
from orchestrator.protocol.events import Event
from orchestrator.protocol.run import SupervisorGone

# Pieces of output held for a slow reader; beyond this the SSH window, and then the node's reader, holds back.
QUEUE_PIECES = 64
PING_INTERVAL = 4.0


class NodeClient(Protocol):
    """One node's part in one attempt, as ``remote.node_client.SshNodeClient`` has it. Every method may block."""

    name: str

    @property
    def silent(self) -> float:
        """Seconds since the node was last heard."""

    def start(self) -> None:
        """Start the attempt; raises OrchError."""

    def follow(self) -> None:
        """Take the attempt up; raises OrchError."""

    def reconnect(self) -> None:
        """Take it up again after a loss; raises OrchError."""

    def hear(self, put: Callable[[Event | Output | NodeSample], None]) -> SupervisorGone | None:
        """Give all that comes to ``put`` until the node's part is over; raises ConnectionLost, OrchError."""

    def ping(self) -> None:
        """Show the node that somebody is there."""

    def stop(self, grace: float) -> None:
        """End the attempt within ``grace`` seconds; raises OrchError."""

    def sweep(self) -> int:
        """End what an orphaned attempt left; how many processes. Raises OrchError."""

    def fence(self) -> None:
        """Reach the node and end the run there; raises OrchError."""

    def undo(self, broken: bool) -> None:
        """End what was started, as far as the node can be reached."""

    def hang_up(self) -> None:
        """Hear no more."""


class Recorder(Protocol):
    """Who keeps and shows what happens. Called from the loop's thread alone."""

    def event(self, event: Event) -> None:
        """An event; raises CannotRecord."""

    def output(self, output: Output) -> None:
        """A piece of a log; raises CannotRecord."""

    def sample(self, sample: NodeSample) -> None:
        """How busy a node is."""

    def ended(self) -> None:
        """No more output comes of this attempt."""

    def refused(self, errors: tuple[OrchError, ...]) -> None:
        """An attempt could not start."""


Clients = Mapping[str, NodeClient]
Ready = tuple[Prepared, Clients]


class Errands(Protocol):
    """What a run needs beside its nodes' parts. ``note`` takes events to be recorded."""

    def collect(self, names: tuple[str, ...], final: bool, note: Callable[[Event], None]) -> None:
        """Fetch outputs of nodes, and note for each what came of it."""

    def explain(self, result: RunResult, note: Callable[[Event], None]) -> Diagnosis | None:
        """What made an attempt fail, from its logs."""

    def prepare(self, order: Prepare, result: RunResult, note: Callable[[Event], None]) -> Ready | NotPrepared:
        """Make a next attempt ready."""


class Engine:
    """Runs a state machine on its nodes: ``first`` is the machine's first step. ``run()`` is called once.

    ``stop()`` and ``leave()`` may be called from any thread and from signal handlers.
    """

    def __init__(self, first: Step, clients: Clients, errands: Errands, recorder: Recorder) -> None:
        self.state = first[0]
        self._first = first
        self.last: Finish | None = None
        self._clients = dict(clients)
        self._errands = errands
        self._recorder = recorder
        self._inbox: queue.SimpleQueue[Input | Output | NodeSample | Ready | BaseException] = queue.SimpleQueue()
        self._room = threading.Semaphore(QUEUE_PIECES)
        self._closed = threading.Event()
        self._deadlines: list[tuple[float, int, Timer]] = []
        self._count = itertools.count()
        # Who is heard now. Only the loop changes it; the ping thread reads copies.
        self._heard: dict[str, NodeClient] = {}

    def run(self) -> Finish:
        """See the run to its end, or to where it is left. Raises CannotRecord, and leaves it going, if this
        machine has no room for what the run says."""
        threading.Thread(target=self._ping, daemon=True, name="ping").start()
        try:
            self._do_all(self._first)
            while self.last is None:
                self._take(self._next())
            return self.last
        finally:
            self._recorder.ended()
            self._close()

    def stop(self, reason: str, grace: float, *, by_user: bool = True) -> None:
        """Ask for the run's end within ``grace`` seconds. Returns at once."""
        self._inbox.put(inputs.StopAsked(reason, grace, by_user))

    def leave(self) -> None:
        """Ask this process to leave the run going. Returns at once."""
        self._inbox.put(inputs.LeaveAsked())

    def _close(self) -> None:
        self._closed.set()
        for client in self._heard.values():
            client.hang_up()
        for _ in range(QUEUE_PIECES + len(self._heard)):
            self._room.release()

    def _next(self) -> Input | Output | NodeSample | Ready | BaseException:
        """The next thing to take: a deadline that has come, or what is in the inbox."""
        while True:
            now = time.monotonic()
            if self._deadlines and self._deadlines[0][0] <= now:
                return inputs.Due(heapq.heappop(self._deadlines)[2])
            try:
                return self._inbox.get(timeout=self._deadlines[0][0] - now if self._deadlines else None)
            except queue.Empty:
                continue

    def _take(self, told: Input | Output | NodeSample | Ready | BaseException) -> None:
        match told:
            case Output():
                self._room.release()
                self._recorder.output(told)
            case NodeSample():
                self._recorder.sample(told)
            case BaseException():
                raise told
            case (prepared, clients):
                self._clients.update(clients)
                self._tell(prepared)
            case _:
                self._tell(told)

    def _tell(self, told: Input) -> None:
        self._do_all(step(self.state, told, time.time()))

    def _do_all(self, taken: Step) -> None:
        self.state, wanted = taken
        for action in wanted:
            self._do(action)

    def _do(self, action: Action) -> None:
        match action:
            case actions.Record(event):
                self._recorder.event(event)
            case actions.Wait(timer, seconds):
                heapq.heappush(self._deadlines, (time.monotonic() + seconds, next(self._count), timer))
            case actions.OnNode():
                self._do_on_node(action)
            case actions.Collect(attempt, names, final):
                if final:
                    self._recorder.ended()
                self._spawn("collect", partial(self._collect, attempt, names, final))
            case actions.Explain(attempt):
                self._recorder.ended()
                found = self._errands.explain(self.state.result, self._note)
                self._inbox.put(inputs.Explained(attempt, found))
            case actions.ShowRefusals(errors):
                self._recorder.refused(errors)
            case actions.Prepare():
                self._spawn("prepare", partial(self._prepare, action, self.state.result))
            case actions.Finish():
                self.last = action

    def _do_on_node(self, action: actions.OnNode) -> None:
        name, attempt, client = action.node, action.attempt, self._clients[action.node]
        match action:
            case actions.Start():
                self._listen(client, attempt, client.start)
            case actions.Follow():
                self._listen(client, attempt, client.follow)
            case actions.Reconnect():
                self._heard.pop(name, None)
                self._spawn(f"listen-{name}", partial(self._reconnect, client, attempt))
            case actions.HangUp():
                self._heard.pop(name, None)
                client.hang_up()
            case actions.StopNode(grace=grace):
                self._spawn(f"stop-{name}", partial(self._stop, client, attempt, grace))
            case actions.Undo(broken=broken):
                self._spawn(f"undo-{name}", partial(self._undo, client, attempt, broken))
            case actions.Sweep():
                self._spawn(f"sweep-{name}", partial(self._sweep, client, attempt))
            case actions.Fence():
                self._spawn(f"fence-{name}", partial(self._fence, client, attempt))

    # Below: what threads other than the loop's do. They share nothing with it but the inbox.

    def _spawn(self, name: str, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                # A bug: no run may wait for this thread for ever.
                self._inbox.put(error)

        threading.Thread(target=guarded, daemon=True, name=name).start()

    def _listen(self, client: NodeClient, attempt: int, begin: Callable[[], None]) -> None:
        def work() -> None:
            try:
                begin()
            except OrchError as error:
                broken = isinstance(error, ConnectionLost)
                self._inbox.put(inputs.Refused(client.name, attempt, error, broken))
                return
            self._inbox.put(inputs.Started(client.name, attempt))
            self._hear(client, attempt)

        self._heard[client.name] = client
        self._spawn(f"listen-{client.name}", work)

    def _reconnect(self, client: NodeClient, attempt: int) -> None:
        # A reader that paused for an hour was not listening: what it did not hear is no silence of the node's.
        try:
            client.reconnect()
        except OrchError as error:
            self._inbox.put(inputs.StillDown(client.name, attempt, error.message, client.silent))
            return
        self._inbox.put(inputs.Back(client.name, attempt))
        self._hear(client, attempt)

    def _hear(self, client: NodeClient, attempt: int) -> None:
        name = client.name
        try:
            gone = client.hear(partial(self._put, name, attempt))
        except ConnectionLost as error:
            self._inbox.put(inputs.Broke(name, attempt, error.message))
        except OrchError as error:
            self._inbox.put(inputs.Unusable(name, attempt, error.message))
        except Exception as error:
            # Whatever it was that orch could not cope with: the others go on.
            self._inbox.put(inputs.Unusable(name, attempt, f"{type(error).__name__}: {error}"))
        else:
            self._inbox.put(
                inputs.Ended(name, attempt) if gone is None else inputs.Orphaned(name, attempt, gone.rebooted)
            )

    def _put(self, name: str, attempt: int, item: Event | Output | NodeSample) -> None:
        if isinstance(item, Event):
            self._inbox.put(inputs.Happened(name, attempt, item))
            return
        if isinstance(item, Output):
            # Only output is held back: a stop must get through however slow the reader is.
            self._room.acquire()
        if not self._closed.is_set():
            self._inbox.put(item)

    def _stop(self, client: NodeClient, attempt: int, grace: float) -> None:
        try:
            client.stop(grace)
        except ConnectionLost:
            # It is told as soon as it is reached again.
            return
        except OrchError as error:
            self._inbox.put(inputs.StopFailed(client.name, attempt, error.message))

    def _undo(self, client: NodeClient, attempt: int, broken: bool) -> None:
        client.undo(broken)
        client.hang_up()
        self._inbox.put(inputs.Undone(client.name, attempt))

    def _sweep(self, client: NodeClient, attempt: int) -> None:
        try:
            self._inbox.put(inputs.Swept(client.name, attempt, client.sweep()))
        except OrchError as error:
            self._inbox.put(inputs.Broke(client.name, attempt, error.message))

    def _fence(self, client: NodeClient, attempt: int) -> None:
        try:
            client.fence()
        except OrchError:
            self._inbox.put(inputs.FenceFailed(client.name, attempt))
        else:
            self._inbox.put(inputs.Fenced(client.name, attempt))

    def _note(self, event: Event) -> None:
        self._inbox.put(inputs.Noted(event))

    def _collect(self, attempt: int, names: tuple[str, ...], final: bool) -> None:
        self._errands.collect(names, final, self._note)
        self._inbox.put(inputs.CollectionDone(attempt))

    def _prepare(self, order: Prepare, result: RunResult) -> None:
        self._inbox.put(self._errands.prepare(order, result, self._note))

    def _ping(self) -> None:
        while not self._closed.wait(PING_INTERVAL):
            for client in list(self._heard.values()):
                client.ping()
