"""Engines for tests: over one real node without a run folder, and over fake nodes without a network."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from orchestrator.core.diagnosis.diagnosis import Diagnosis, diagnose
from orchestrator.core.run.actions import Finish, Look, Prepare
from orchestrator.core.run.inputs import NotPrepared, Prepared
from orchestrator.core.run.machine import following, starting
from orchestrator.core.run.output import NodeSample, Output
from orchestrator.core.run.policy import Policy
from orchestrator.core.run.result import RunResult, nothing_yet
from orchestrator.engine.engine import Engine, Ready, Recorder
from orchestrator.errors import ConnectionLost, OrchError
from orchestrator.protocol.events import Collected, Event, Finished, Hang, RankFailed
from orchestrator.protocol.run import Follow, Start, SupervisorGone
from orchestrator.remote.node import Node
from orchestrator.remote.node_client import SshNodeClient

Note = Callable[[Event], None]


@dataclass
class MemoryRecorder:
    """A recorder that keeps what it gets, and calls ``when`` on every event, ``said`` on every output."""

    events: list[Event] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    when: Callable[[Event], object] = lambda event: None
    said: Callable[[Output], object] = lambda output: None

    @property
    def kinds(self) -> list[str]:
        return [event.KIND for event in self.events]

    def event(self, event: Event) -> None:
        self.events.append(event)
        self.when(event)

    def output(self, output: Output) -> None:
        self.outputs.append(output)
        self.said(output)

    def sample(self, sample: NodeSample) -> None:
        pass

    def ended(self) -> None:
        pass

    def refused(self, errors: tuple[OrchError, ...]) -> None:
        pass


class FakeErrands:
    """Errands that collect nothing, read no logs, and prepare the next attempt on the given spares."""

    def __init__(self, spares: Mapping[str, FakeNode] | None = None) -> None:
        self.spares = dict(spares or {})
        self.prepared: list[Prepare] = []
        self.when_preparing: Callable[[], None] = lambda: None

    def collect(self, names: tuple[str, ...], final: bool, note: Note) -> None:
        for name in names:
            note(Collected(time=time.time(), node=name, files=0, bytes=0))

    def explain(self, result: RunResult, note: Note) -> Diagnosis | None:
        return diagnose(result)

    def look(self, order: Look, result: RunResult) -> Hang:
        what = f"ranks {sorted(order.still)} wait"
        return Hang(
            time=time.time(), node=order.nodes[0], rank=None, what=what, remedy="look", everyone=order.everyone
        )

    def prepare(self, order: Prepare, result: RunResult, note: Note) -> Ready | NotPrepared:
        self.prepared.append(order)
        self.when_preparing()
        free = [name for name in self.spares if name not in order.given_up][: order.missing]
        if len(free) < order.missing:
            return NotPrepared(order.attempt)
        return Prepared(order.attempt, (*order.survivors, *free)), {name: self.spares[name] for name in free}


def started(node: Node, asked: Start, heard: MemoryRecorder, timeout: float = 30.0) -> Engine:
    """Return an engine that starts one real node's part in a run."""
    listener = SshNodeClient(node, Follow(run_id=asked.run_id, attempt=1), timeout, asked)
    first = starting(Policy(node_timeout=timeout), [node.name], time.time())
    return Engine(first, {node.name: listener}, FakeErrands(), heard)


def joined(node: Node, run_id: str, heard: MemoryRecorder, tail: int | None = None) -> Engine:
    """Return an engine that takes up one real node's part in a run."""
    listener = SshNodeClient(node, Follow(run_id=run_id, attempt=1, tail=tail), 30.0)
    first = following(Policy(records=False, passive=True), [node.name], 1, nothing_yet())
    return Engine(first, {node.name: listener}, FakeErrands(), heard)


class FakeNode:
    """A node that plays what a test puts into ``script``: events, outputs, errors, or an end (None)."""

    def __init__(self, name: str, *script: Event | Output | OrchError | None) -> None:
        self.name = name
        self.silent = 0.0
        self.script: queue.SimpleQueue[Event | Output | OrchError | None] = queue.SimpleQueue()
        self.asked: list[str] = []
        self.refuses: OrchError | None = None
        self.unreachable = False
        for item in script:
            self.script.put(item)

    def ends(self, exit_code: int = 0, stopped: bool = False) -> None:
        """Let the node's part end."""
        self.script.put(
            Finished(time=1.0, node=self.name, exit_code=exit_code, signal=None, stopped=stopped, killed=0)
        )
        self.script.put(None)

    def fails(self) -> None:
        """Let rank 0, which is on this node, fail."""
        self.script.put(
            RankFailed(
                time=1.0,
                node=self.name,
                rank=0,
                local_rank=0,
                pid=9,
                exit_code=1,
                signal=None,
                failed_at=None,
            )
        )

    def start(self) -> None:
        self.asked.append("start")
        if self.refuses is not None:
            raise self.refuses

    def follow(self) -> None:
        self.asked.append("follow")

    def reconnect(self) -> None:
        self.asked.append("reconnect")
        if self.unreachable:
            raise ConnectionLost("no route to host", host=self.name)

    def hear(self, put: Callable[[Event | Output | NodeSample], None]) -> SupervisorGone | None:
        while (item := self.script.get()) is not None:
            if isinstance(item, OrchError):
                raise item
            put(item)
        return None

    def ping(self) -> None:
        pass

    def stop(self, grace: float) -> None:
        self.asked.append(f"stop {grace:g}")
        if self.unreachable:
            raise ConnectionLost("gone", host=self.name)
        self.ends(1, stopped=True)

    def sweep(self) -> int:
        self.asked.append("sweep")
        return 0

    def fence(self) -> None:
        self.asked.append("fence")
        raise ConnectionLost("gone", host=self.name)

    def undo(self, broken: bool) -> None:
        self.asked.append(f"undo {broken}")
        self.script.put(None)

    def hang_up(self) -> None:
        self.script.put(None)


def fake_run(
    policy: Policy, nodes: list[FakeNode], chores: FakeErrands | None = None, heard: Recorder | None = None
) -> tuple[Engine, Callable[[], Finish]]:
    """Return an engine over fake nodes, and its ``run``."""
    first = starting(policy, [node.name for node in nodes], time.time())
    engine = Engine(first, {node.name: node for node in nodes}, chores or FakeErrands(), heard or MemoryRecorder())
    return engine, engine.run
