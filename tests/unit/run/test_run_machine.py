"""The state machine of a run, driven without a cluster through random histories that a cluster could have."""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Callable

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.core.diagnosis.diagnosis import diagnose
from orchestrator.core.run import actions, inputs
from orchestrator.core.run.actions import Action, Deadline
from orchestrator.core.run.inputs import Input
from orchestrator.core.run.machine import starting, step
from orchestrator.core.run.policy import STOP, Policy
from orchestrator.core.run.result import exit_code, fold
from orchestrator.core.run.state import Phase
from orchestrator.errors import NodeBusy
from orchestrator.protocol import events
from orchestrator.protocol.events import Event

# ORCH_HISTORIES=100000 runs as many histories as were once shown to pass.
HISTORIES = int(os.environ.get("ORCH_HISTORIES", "400"))
# A run that takes this many turns goes round in circles.
MOST_TURNS = 3000
Chooser = Callable[[int], int]


class World:
    """Nodes that answer each action in one of the ways they could, and the history of a run on them.

    ``choose(n)`` picks one of n ways. Once ``calm`` is set, nothing goes wrong any more.
    """

    def __init__(
        self, policy: Policy, nodes: tuple[str, ...], spares: int, min_nodes: int | None, choose: Chooser
    ):
        self.choose = choose
        self.policy = policy
        self.calm = False
        self.now = 1000.0
        self.spares = [f"spare{n}" for n in range(spares)]
        self.pending: list[Action] = []
        self.timers: list[actions.Wait] = []
        self.events: list[Event] = []
        self.asked: list[Action] = []
        self.running: dict[tuple[str, int], str] = {}
        self.stopped_at: int | None = None
        self.hung = False
        self.last: actions.Finish | None = None
        self.state, first = starting(policy, nodes, self.now, min_nodes=min_nodes)
        self.do(first)

    def tell(self, told: Input) -> None:
        """Pass an input to the machine and take the actions that follow."""
        self.now += 0.1
        before = self.state
        self.state, done = step(self.state, told, self.now)
        if isinstance(told, inputs.StopAsked) and self.stopped_at is None and not before.over:
            self.stopped_at = len(self.asked)
        self.do(done)

    def do(self, done: tuple[Action, ...]) -> None:
        """Take the actions, and check that none is one that must never happen."""
        for action in done:
            assert self.last is None, f"{action} after the end"
            if isinstance(action, actions.OnNode):
                lost = {event.node for event in self.attempt_events() if isinstance(event, events.NodeLost)}
                allowed = actions.Fence | actions.HangUp
                assert action.node not in lost or isinstance(action, allowed), f"{action} for a lost node"
            if self.stopped_at is not None:
                assert not isinstance(action, actions.Start | actions.Prepare), f"{action} after a stop"
            if self.hung and self.policy.on_hang == STOP:
                assert not isinstance(action, actions.Start | actions.Prepare), f"{action} after a hang"
            self.asked.append(action)
            match action:
                case actions.Record(events.Hang() as event):
                    moved = max((n for n, each in enumerate(self.events) if is_moving(each)), default=-1)
                    seen = [each for each in self.events[moved + 1 :] if isinstance(each, events.Hang)]
                    assert len(seen) < 2 and (not seen or event.everyone), "the same hang twice"
                    self.hung = self.hung or event.ends
                    self.events.append(event)
                case actions.Record(event):
                    self.events.append(event)
                    assert fold(self.events) == fold(self.events[:-1]).after(event)
                case actions.Wait():
                    self.timers.append(action)
                case actions.Finish():
                    self.last = action
                case actions.Start(node, attempt):
                    assert not any(there == node for there, _ in self.running), "two attempts on one node"
                    self.running[node, attempt] = "asked"
                    self.pending.append(action)
                case _:
                    self.pending.append(action)

    def attempt_events(self) -> list[Event]:
        """Return the events of the newest attempt."""
        begun = max(n for n, event in enumerate(self.events) if isinstance(event, events.Planned))
        return self.events[begun:]

    def turn(self) -> None:
        """Let one thing happen: an answer, a deadline, or something that a node does by itself."""
        ways: list[Callable[[], None]] = [functools.partial(self.answer, action) for action in self.pending]
        timers = [timer for timer in self.timers if not self.calm or self.urgent(timer)]
        ways += [functools.partial(self.due, timer) for timer in timers]
        busy = [there for there, how in self.running.items() if how in ("runs", "stopping")]
        ways += [functools.partial(self.happen, name, attempt) for name, attempt in busy]
        assert ways, f"nothing is left to happen in {self.state.phase}"
        ways[self.choose(len(ways))]()

    def urgent(self, timer: actions.Wait) -> bool:
        """Return whether nothing else can happen without this timer."""
        return timer.timer.kind in (Deadline.RETRY, Deadline.FENCE)

    def due(self, timer: actions.Wait) -> None:
        self.timers.remove(timer)
        self.tell(inputs.Due(timer.timer))

    def odds(self, one_in: int) -> bool:
        """Return whether something unlikely happens."""
        return not self.calm and self.choose(one_in) == 0

    def answer(self, action: Action) -> None:
        """Answer an action in one of the ways that a node could."""
        self.pending.remove(action)
        match action:
            case actions.Start(node, attempt):
                self.answer_start(node, attempt)
            case actions.Undo(node, attempt):
                self.running.pop((node, attempt), None)
                self.tell(inputs.Undone(node, attempt))
            case actions.StopNode(node, attempt):
                if self.odds(8):
                    self.tell(inputs.StopFailed(node, attempt, "no room"))
                if (node, attempt) in self.running:
                    self.running[node, attempt] = "stopping"
            case actions.Reconnect(node, attempt):
                if self.odds(3):
                    silent = (0.5, 31.0, 400.0)[self.choose(3)]
                    self.tell(inputs.StillDown(node, attempt, "no route", silent))
                else:
                    self.tell(inputs.Back(node, attempt))
                    if (node, attempt) not in self.running:
                        self.tell(inputs.Ended(node, attempt))
            case actions.Sweep(node, attempt):
                if self.odds(4):
                    self.running[node, attempt] = "runs"
                    self.tell(inputs.Broke(node, attempt, "reset"))
                else:
                    self.running.pop((node, attempt), None)
                    self.tell(inputs.Swept(node, attempt, self.choose(2)))
            case actions.Fence(node, attempt):
                if self.odds(2):
                    self.tell(inputs.FenceFailed(node, attempt))
                else:
                    for there in [known for known in self.running if known[0] == node]:
                        assert there[1] <= attempt, "a fence ends what was started later"
                        self.running.pop(there)
                    self.tell(inputs.Fenced(node, attempt))
            case actions.Collect(attempt, names):
                for name in names:
                    self.tell(inputs.Noted(self.collected(name)))
                self.tell(inputs.CollectionDone(attempt))
            case actions.Explain(attempt):
                self.tell(inputs.Explained(attempt, diagnose(fold(self.events))))
            case actions.Look(attempt, names, _, _, everyone):
                self.tell(inputs.Looked(attempt, hang(self.now, names[0] if names else None, everyone)))
            case actions.Prepare():
                self.answer_prepare(action)
            case _:
                return

    def collected(self, name: str) -> Event:
        if self.odds(4):
            return events.CollectFailed(time=self.now, node=name, reason="gone")
        return events.Collected(time=self.now, node=name, files=1, bytes=1)

    def answer_start(self, node: str, attempt: int) -> None:
        way = 0 if self.calm else self.choose(20)
        if way == 4:
            self.running.pop((node, attempt))
            self.tell(inputs.Refused(node, attempt, NodeBusy("busy", host=node)))
        elif way == 5:
            # Whether the attempt began is unknown.
            self.tell(inputs.Refused(node, attempt, NodeBusy("reset", host=node), broken=True))
        else:
            self.running[node, attempt] = "runs"
            self.tell(inputs.Started(node, attempt))

    def answer_prepare(self, action: actions.Prepare) -> None:
        if self.odds(6):
            blamed = (*action.survivors, *self.spares)
            self.tell(inputs.NotPrepared(action.attempt, blamed[: self.choose(len(blamed) + 1)]))
            return
        there = {name for name, _ in self.running}
        free = [name for name in self.spares if name not in action.given_up and name not in action.survivors]
        # A lost node that is not being fenced yet is fenced during the preparation.
        back = [name for name in self.state.result.lost if name not in action.given_up]
        chosen = [name for name in dict.fromkeys((*free, *back)) if name not in there][: action.missing]
        if len(chosen) < action.missing:
            self.tell(inputs.NotPrepared(action.attempt))
            return
        self.tell(inputs.Prepared(action.attempt, (*action.survivors, *chosen), self.state.result.min_nodes))

    def happen(self, name: str, attempt: int) -> None:
        """Let a running node do something by itself, or let its connection break."""
        how = self.running[name, attempt]
        heard = attempt == self.state.attempt and name in self.state.nodes
        up = heard and self.state.nodes[name].link.value == "up"
        way = 0 if self.calm else self.choose(10)
        if not up:
            # The node's part ends without being heard.
            if way == 0:
                self.running.pop((name, attempt))
            return
        stopped = how == "stopping"
        match way:
            case 1 | 2:
                self.tell(inputs.Broke(name, attempt, "reset by peer"))
            case 3:
                self.tell(inputs.Orphaned(name, attempt, bool(self.choose(2))))
            case 4:
                self.running[name, attempt] = "gone"
                self.tell(inputs.Unusable(name, attempt, "nonsense"))
            case 5 if not stopped:
                failed = events.RankFailed(
                    time=self.now,
                    node=name,
                    rank=0,
                    local_rank=0,
                    pid=7,
                    exit_code=1,
                    signal=None,
                    failed_at=None,
                )
                self.tell(inputs.Happened(name, attempt, failed))
            case 6 | 7:
                still = events.Still(time=self.now, node=name, ranks=(0,)[way - 6 :], among=1, after=60.0)
                self.tell(inputs.Happened(name, attempt, still))
            case _:
                code = 0 if not stopped and (self.calm or self.choose(4)) else 1
                ended = events.Finished(
                    time=self.now, node=name, exit_code=code, signal=None, stopped=stopped, killed=0
                )
                self.running.pop((name, attempt))
                self.tell(inputs.Happened(name, attempt, ended))
                if self.state.phase is not Phase.OVER:
                    self.tell(inputs.Ended(name, attempt))

    def check_end(self) -> None:
        """Check what must be true of a run that is over."""
        assert self.last is not None and self.state.over
        self.check_nodes()
        if self.last.left or self.last.refusals:
            assert self.last.exit_code is None
            return
        result = fold(self.events)
        assert isinstance(self.events[-1], events.RunFinished)
        assert self.events[-1].exit_code == self.last.exit_code
        found = diagnose(result)
        assert self.last.exit_code == exit_code(result, found.node if found else None)
        assert (self.last.exit_code in (0, 5)) == result.ok
        if self.stopped_at is not None and not result.failures:
            assert self.last.exit_code in (0, 5, 130)

    def check_nodes(self) -> None:
        """Check that every node told to start finished, was told to stop, was given up, or was left on purpose."""
        assert self.last is not None
        if self.last.left:
            return
        ended = {event.node for event in self.events if isinstance(event, events.Finished | events.Orphaned)}
        lost = {event.node for event in self.events if isinstance(event, events.NodeLost)}
        told = {each.node for each in self.asked if isinstance(each, actions.StopNode | actions.Undo)}
        for name, attempt in self.running:
            assert name in ended | lost | told, f"{name} goes on with attempt {attempt} and was not told to stop"


def hang(time: float, node: str | None, everyone: bool) -> events.Hang:
    return events.Hang(time=time, node=node, rank=None, what="no progress", remedy="look", everyone=everyone)


def is_moving(event: Event) -> bool:
    return isinstance(event, events.Planned) or (isinstance(event, events.Still) and not event.ranks)


POLICIES = st.builds(
    Policy,
    limit=st.sampled_from([None, 60.0]),
    collect_every=st.sampled_from([None, 10.0]),
    max_restarts=st.integers(0, 3),
    detach=st.sampled_from([False, False, False, True]),
    records=st.sampled_from([True, True, True, False]),
    on_hang=st.sampled_from(["report", "stop", "restart"]),
)


def live(policy: Policy, size: int, spares: int, elastic: bool, choose: Chooser) -> World:
    """Run one history from start to end and return its world."""
    nodes = tuple(f"gpu{n}" for n in range(size))
    world = World(policy, nodes, spares, 1 + choose(size) if elastic else None, choose)
    for turn in range(MOST_TURNS):
        if world.state.over:
            break
        # After 60 turns nothing goes wrong any more, so the run must end.
        world.calm = world.calm or turn > 60
        if not world.calm and choose(40) == 0:
            world.tell(inputs.StopAsked("interrupted", float(choose(2) * 30)))
        elif not world.calm and choose(80) == 0:
            world.tell(inputs.LeaveAsked())
        else:
            world.turn()
    world.check_end()
    return world


@settings(max_examples=HISTORIES, deadline=None, suppress_health_check=list(HealthCheck))
@given(POLICIES, st.integers(1, 4), st.integers(0, 3), st.booleans(), st.integers(0, 2**64 - 1))
def test_whatever_happens_a_run_ends_as_it_must(
    policy: Policy, size: int, spares: int, elastic: bool, seed: int
) -> None:
    live(policy, size, spares, elastic, random.Random(seed).randrange)
