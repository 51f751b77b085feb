"""Carries out the actions of a run's state machine, and passes their outcomes back to it as inputs.

One loop, in the thread that calls ``run()``, owns the state, the record and the display. Each blocking call has a
thread of its own, which reports to the loop through the inbox; see the table in ``docs/architecture.md``.
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
from orchestrator.core.run.machine import step
from orchestrator.core.run.output import NodeSample, Output
from orchestrator.core.run.result import RunResult
from orchestrator.core.run.turn.turn import Step
from orchestrator.errors import ConnectionLost, OrchError
from orchestrator.protocol.events import Event, Hang
from orchestrator.protocol.run import SupervisorGone

# Pieces of output held for a slow reader. Beyond that the SSH window fills, and then the node's follower waits.
QUEUE_PIECES = 64
# Interval of the pings that show nodes that the control machine is there, in seconds.
PING_INTERVAL = 4.0


class NodeClient(Protocol):
    """One node's part in one attempt, as in ``remote.node_client.SshNodeClient``. Every method may block."""

    name: str

    @property
    def silent(self) -> float:
        """Seconds since the node was last heard."""

    def start(self) -> None:
        """Start the attempt. Raises OrchError."""

    def follow(self) -> None:
        """Take up an attempt that was started before. Raises OrchError."""

    def reconnect(self) -> None:
        """Connect again after a loss, and follow from the last offsets. Raises OrchError."""

    def hear(self, put: Callable[[Event | Output | NodeSample], None]) -> SupervisorGone | None:
        """Pass everything that the node sends to ``put`` until its part is over.

        Returns SupervisorGone if the node's supervisor ended without recording an end. Raises ConnectionLost when
        the connection breaks, OrchError when the node sends something invalid.
        """

    def ping(self) -> None:
        """Show the node that the control machine is there."""

    def stop(self, grace: float) -> None:
        """End the attempt within ``grace`` seconds. Raises OrchError."""

    def sweep(self) -> int:
        """End the processes that an orphaned attempt left, and return their number. Raises OrchError."""

    def fence(self) -> None:
        """Connect to the node and end the run there. Raises OrchError."""

    def undo(self, broken: bool) -> None:
        """End the attempt, if the node can be reached. ``broken``: the connection must be made again first."""

    def hang_up(self) -> None:
        """Stop listening to the node."""


class Recorder(Protocol):
    """Records and shows a run. Only the loop's thread calls it."""

    def event(self, event: Event) -> None:
        """Record and show an event. Raises CannotRecord."""

    def output(self, output: Output) -> None:
        """Record and show a piece of a log. Raises CannotRecord."""

    def sample(self, sample: NodeSample) -> None:
        """Show a node's load."""

    def ended(self) -> None:
        """End the display of the attempt: it has no more output."""

    def refused(self, errors: tuple[OrchError, ...]) -> None:
        """Show why nodes refused to start an attempt."""


Clients = Mapping[str, NodeClient]
Ready = tuple[Prepared, Clients]


class Errands(Protocol):
    """The tasks of a run beside its nodes' parts. Events passed to ``note`` are recorded."""

    def collect(self, names: tuple[str, ...], final: bool, note: Callable[[Event], None]) -> None:
        """Fetch the nodes' outputs, and note an event for each node."""

    def explain(self, result: RunResult, note: Callable[[Event], None]) -> Diagnosis | None:
        """Diagnose an attempt's failure from its logs; return None if nothing failed."""

    def look(self, order: actions.Look, result: RunResult) -> Hang:
        """Return what ranks do that make no progress."""

    def prepare(self, order: Prepare, result: RunResult, note: Callable[[Event], None]) -> Ready | NotPrepared:
        """Prepare the next attempt; return its nodes with their clients, or NotPrepared."""


class Engine:
    """Runs a state machine on its nodes. ``first`` is the machine's first step. ``run()`` may be called once.

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
        # Clients that are listened to now. Only the loop changes the dict; the ping thread reads copies.
        self._heard: dict[str, NodeClient] = {}

    def run(self) -> Finish:
        """Run the loop until the run is over or left. Raises CannotRecord, and leaves the run going, if this
        machine cannot record it."""
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
        """Ask for the run's end within ``grace`` seconds. Return at once."""
        self._inbox.put(inputs.StopAsked(reason, grace, by_user))

    def leave(self) -> None:
        """Ask this process to leave the run going. Return at once."""
        self._inbox.put(inputs.LeaveAsked())

    def _close(self) -> None:
        self._closed.set()
        for client in self._heard.values():
            client.hang_up()
        for _ in range(QUEUE_PIECES + len(self._heard)):
            self._room.release()

    def _next(self) -> Input | Output | NodeSample | Ready | BaseException:
        """Return the next deadline that has passed, or else the next item of the inbox."""
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
            case actions.Look():
                self._spawn("look", partial(self._look, action, self.state.result))
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

    # The methods below run in other threads, which share only the inbox with the loop.

    def _spawn(self, name: str, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                # A bug. Without an answer the loop would wait for ever.
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
            # A bug met with one node must not end the run on the others.
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
            # Only output is bounded: events must arrive however slow the reader is.
            self._room.acquire()
        if not self._closed.is_set():
            self._inbox.put(item)

    def _stop(self, client: NodeClient, attempt: int, grace: float) -> None:
        try:
            client.stop(grace)
        except ConnectionLost:
            # The state machine repeats the stop once the node is back.
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

    def _look(self, order: actions.Look, result: RunResult) -> None:
        self._inbox.put(inputs.Looked(order.attempt, self._errands.look(order, result)))

    def _prepare(self, order: Prepare, result: RunResult) -> None:
        self._inbox.put(self._errands.prepare(order, result, self._note))

    def _ping(self) -> None:
        while not self._closed.wait(PING_INTERVAL):
            for client in list(self._heard.values()):
                client.ping()
