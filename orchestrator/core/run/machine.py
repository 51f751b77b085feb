"""A run's state machine: ``step(state, input, now) -> state, actions``, without clock, thread or socket.

An attempt goes STARTING -> RUNNING -> COLLECTING -> EXPLAINING -> PREPARING, then to STARTING of the next attempt,
or to OVER if there is none; UNDOING ends an attempt that a node refused. ``run`` begins with ``starting``,
``attach`` and ``logs`` with ``following``.

Invariants of every history (``test_run_machine.py``): a node told to start finishes, is told to stop, is lost, or
is left running on purpose; a lost node is only fenced; no attempt starts after the user's stop; and the exit code
follows from the recorded events.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.core.diagnosis.diagnosis import Diagnosis
from orchestrator.core.run import actions, inputs
from orchestrator.core.run.actions import Deadline, Timer
from orchestrator.core.run.inputs import Input
from orchestrator.core.run.policy import Policy
from orchestrator.core.run.result import RunResult, exit_code, nothing_yet
from orchestrator.core.run.state import Link, NodeState, Phase, RunState, Watch
from orchestrator.core.run.turn.fences import Fences
from orchestrator.core.run.turn.hangs import Hangs
from orchestrator.core.run.turn.turn import PAUSE_LONGEST, Step
from orchestrator.errors import ConnectionLost, OrchError
from orchestrator.protocol import VERSION, events

# First pause between two tries to reach a node, in seconds.
PAUSE_SHORTEST = 0.2
# Node timeouts to wait while every node is silent, because the fault is then likely this machine's network.
PATIENCE = 10


def starting(
    policy: Policy, nodes: Iterable[str], now: float, *, attempt: int = 1, min_nodes: int | None = None
) -> Step:
    """Begin a run on ``nodes``, in node_rank order; an elastic run needs ``min_nodes`` of them."""
    turn = _Turn(RunState(policy, Phase.STARTING, attempt, {}, nothing_yet()), now)
    turn.begin(attempt, tuple(nodes), min_nodes)
    return turn.done()


def following(policy: Policy, nodes: Iterable[str], attempt: int, result: RunResult) -> Step:
    """Take up a run that was started before; ``result`` follows from the events recorded so far."""
    states = dict.fromkeys(nodes, NodeState())
    state = RunState(policy, Phase.STARTING, attempt, states, result, joined=True)
    return state, tuple(actions.Follow(name, attempt) for name in states)


def step(state: RunState, told: Input, now: float) -> Step:
    """Return the state and actions that follow from ``told``, received at ``now`` (seconds since the epoch)."""
    if state.over:
        return state, ()
    turn = _Turn(state, now)
    turn.take(told)
    turn.settle()
    return turn.done()


class _Turn(Fences, Hangs):
    """One step in progress."""

    # Inputs.

    def take(self, told: Input) -> None:
        """Handle an input. Inputs of an earlier attempt are ignored, except those about fences."""
        match told:
            case inputs.Fenced() | inputs.FenceFailed():
                self.take_fence(told)
            case inputs.OfNode():
                if told.attempt == self.state.attempt and told.node in self.state.nodes:
                    self.take_of_node(told)
            case inputs.Noted():
                self.record(told.event)
            case inputs.CollectionDone():
                if told.attempt == self.state.attempt:
                    self.take_collection_done()
            case inputs.Explained():
                if self.state.phase is Phase.EXPLAINING and told.attempt == self.state.attempt:
                    self.take_explained(told.found)
            case inputs.Looked():
                if told.attempt == self.state.attempt:
                    self.take_looked(told.found)
            case inputs.Prepared():
                if self.state.phase is Phase.PREPARING and told.attempt == self.state.attempt + 1:
                    self.begin(told.attempt, told.nodes, told.min_nodes)
            case inputs.NotPrepared():
                if self.state.phase is Phase.PREPARING and told.attempt == self.state.attempt + 1:
                    self.take_not_prepared(frozenset(told.blamed))
            case inputs.StopAsked():
                self.take_stop(told)
            case inputs.LeaveAsked():
                self.change(leaving=True)
            case inputs.Due():
                if told.timer.kind is Deadline.FENCE:
                    self.try_fence(told.timer.node or "")
                elif told.timer.attempt == self.state.attempt:
                    self.take_deadline(told.timer)

    def take_of_node(self, told: inputs.OfNode) -> None:
        name, node = told.node, self.state.nodes[told.node]
        if node.link.over:
            return
        if isinstance(told, inputs.Undone):
            self.change_node(name, link=Link.REFUSED)
            return
        if node.link is Link.UNDOING:
            return
        match told:
            case inputs.Started():
                self.take_started(name)
            case inputs.Refused():
                self.change_node(name, link=Link.REFUSED, refusal=told)
            case inputs.Happened():
                self.change_node(name, finished=node.finished or isinstance(told.event, events.Finished))
                if isinstance(told.event, events.Still):
                    self.change(still={**self.state.still, name: told.event})
                self.record(told.event)
            case inputs.Broke():
                self.record(events.Reconnecting(time=self.now, node=name, reason=told.reason))
                self.change_node(name, link=Link.DOWN, tries=0)
                self.actions.append(actions.Reconnect(name, self.state.attempt))
            case inputs.StillDown():
                self.take_still_down(told)
            case inputs.Back():
                self.record(events.Reconnected(time=self.now, node=name))
                self.change_node(name, link=Link.UP, stop_grace=None)
                self.stop_node(name)
            case inputs.Unusable():
                self.actions.append(actions.HangUp(name, self.state.attempt))
                self.lose(name, told.reason)
            case inputs.Orphaned():
                self.take_orphaned(name, told.rebooted)
            case inputs.Swept():
                if told.processes:
                    self.record(events.Swept(time=self.now, node=name, processes=told.processes))
                self.change_node(name, link=Link.ENDED)
            case inputs.Ended():
                self.change_node(name, link=Link.ENDED)
            case inputs.StopFailed():
                self.record(events.StopFailed(time=self.now, node=name, reason=told.reason))

    def take_started(self, name: str) -> None:
        self.change_node(name, link=Link.UP)
        if self.state.phase is Phase.STARTING and not self.refusals():
            self.stop_node(name)

    def take_still_down(self, told: inputs.StillDown) -> None:
        limit = self.state.policy.node_timeout
        if told.silent > limit and (self.has_company(told.node) or told.silent > PATIENCE * limit):
            self.lose(told.node, f"no answer for {told.silent:.0f} s: {told.reason}")
            return
        tries = self.state.nodes[told.node].tries
        self.change_node(told.node, tries=tries + 1)
        self.wait(Deadline.RETRY, min(PAUSE_SHORTEST * 2 ** min(tries, 10), PAUSE_LONGEST), told.node)

    def has_company(self, name: str) -> bool:
        """Return whether another node is heard, which shows that this machine's network works."""
        others = [each for other, each in self.state.nodes.items() if other != name and not each.link.over]
        # Where all other nodes have ended, the ordinary timeout applies; a run of one node gets the longer one.
        return any(each.link is Link.UP for each in others) or (not others and len(self.state.nodes) > 1)

    def take_orphaned(self, name: str, rebooted: bool) -> None:
        if self.state.result.nodes[name].state != "failed":
            self.record(events.Orphaned(time=self.now, node=name, rebooted=rebooted))
        if self.state.policy.passive:
            self.change_node(name, link=Link.ENDED)
            return
        self.change_node(name, link=Link.SWEEPING)
        self.actions.append(actions.Sweep(name, self.state.attempt))

    def take_stop(self, told: inputs.StopAsked) -> None:
        self.change(stopped=self.state.stopped or told.by_user)
        match self.state.phase:
            case Phase.STARTING | Phase.RUNNING:
                self.stop(told.reason, told.grace, told.by_user)
            case Phase.COLLECTING:
                for name in self.reachable():
                    if self.state.result.nodes[name].uncollected is None:
                        self.record(events.CollectFailed(time=self.now, node=name, reason=told.reason))
                self.explain()
            case Phase.PREPARING:
                self.record(
                    events.StopRequested(time=self.now, reason=told.reason, grace=told.grace, by_user=told.by_user)
                )

    def take_collection_done(self) -> None:
        self.change(collecting=False)
        if self.state.phase is Phase.COLLECTING:
            # The collection that ended may be a periodic one.
            self.explain() if self.state.collected else self.collect_all()
        elif self.state.phase is Phase.RUNNING:
            self.wait(Deadline.COLLECT, self.state.policy.collect_every or 0.0)

    def take_explained(self, found: Diagnosis | None) -> None:
        self.change(found=found)
        if self.wants_another():
            self.prepare()
        else:
            self.finish()

    def take_not_prepared(self, blamed: frozenset[str]) -> None:
        new = blamed - self.state.given_up
        self.change(given_up=self.state.given_up | new)
        # A lost node that is being fenced now may still take part.
        if new:
            self.prepare()
        elif any(self.state.fencing.values()):
            self.change(postponed=True)
        else:
            self.finish()

    def take_deadline(self, timer: Timer) -> None:
        running, node = self.state.phase is Phase.RUNNING, timer.node
        match timer.kind:
            case Deadline.LIMIT if running:
                limit = self.state.policy.limit or 0.0
                # Another attempt would exceed the limit, too.
                self.change(stopped=True)
                self.stop(f"the run took longer than {limit:g} s", self.state.policy.grace.stop, by_user=False)
            case Deadline.RETRY if node is not None and node in self.state.nodes:
                if self.state.nodes[node].link is Link.DOWN:
                    self.actions.append(actions.Reconnect(node, self.state.attempt))
            case Deadline.COLLECT if running and not self.state.collecting:
                there = tuple(name for name in self.reachable() if self.state.nodes[name].link is Link.UP)
                self.change(collecting=True)
                self.actions.append(actions.Collect(self.state.attempt, there, final=False))
            case Deadline.HANG if running and self.state.watch is Watch.WAITING:
                self.look(Watch.SOME)

    # Transitions that follow from the state.

    def settle(self) -> None:
        """Go on to the next phase if this one has ended."""
        if self.state.phase is Phase.STARTING:
            self.settle_start()
        if self.state.phase is Phase.UNDOING and all(node.link.over for node in self.state.nodes.values()):
            self.refused()
        if self.state.phase in (Phase.STARTING, Phase.RUNNING):
            self.stop_after_failure()
        if self.state.phase is Phase.RUNNING:
            self.watch()
            if self.state.leaving:
                self.leave()
            elif all(node.link.over for node in self.state.nodes.values()):
                self.after_the_end()
        if self.state.phase is Phase.PREPARING and not self.wants_another():
            # No process of the run is left, so a stop takes effect at once.
            self.finish()

    def settle_start(self) -> None:
        if self.refusals() and not self.state.policy.passive:
            self.undo()
        elif not any(node.link is Link.STARTING for node in self.state.nodes.values()):
            self.change(phase=Phase.RUNNING, leaving=self.state.leaving or self.state.policy.detach)
            if self.state.policy.limit is not None:
                self.wait(Deadline.LIMIT, self.state.policy.limit)
            if self.state.policy.collect_every is not None and self.state.policy.records:
                self.wait(Deadline.COLLECT, self.state.policy.collect_every)

    def refusals(self) -> tuple[inputs.Refused, ...]:
        return tuple(node.refusal for node in self.state.nodes.values() if node.refusal is not None)

    def undo(self) -> None:
        """End the attempt on every node because one refused it; if the run was joined, only stop listening."""
        for name, node in self.state.nodes.items():
            if node.link in (Link.UP, Link.DOWN, Link.SWEEPING):
                if self.state.joined:
                    self.actions.append(actions.HangUp(name, self.state.attempt))
                    self.change_node(name, link=Link.REFUSED)
                else:
                    self.undo_node(name, broken=node.link is Link.DOWN)
            elif node.refusal and node.refusal.broken and not self.state.joined and node.stop_grace is None:
                self.undo_node(name, broken=True)
        if not any(node.link is Link.STARTING for node in self.state.nodes.values()):
            self.change(phase=Phase.UNDOING)

    def undo_node(self, name: str, *, broken: bool) -> None:
        self.change_node(name, link=Link.UNDOING, stop_grace=0.0)
        self.actions.append(actions.Undo(name, self.state.attempt, broken))

    def refused(self) -> None:
        errors = tuple(each.error for each in self.refusals())
        if self.state.attempt == 1 or self.state.joined:
            self.over(actions.Finish(None, refusals=errors))
            return
        # Earlier attempts have results to explain, and there may be further attempts.
        self.actions.append(actions.ShowRefusals(errors))
        for each in self.refusals():
            self.record(events.NodeLost(time=self.now, node=each.node, reason=each.error.message))
        self.explain()

    def stop_after_failure(self) -> None:
        """Stop the other nodes after the first failure, because their ranks would wait in a collective. An elastic
        run goes on while enough nodes are left. Only the process that records the run stops it."""
        result = self.state.result
        if self.state.policy.records and self.state.grace is None and result.failures and not result.bearable:
            self.stop(result.failures[0].describe(), self.state.policy.grace.failure, by_user=False)

    def stop(self, reason: str, grace: float, by_user: bool) -> None:
        self.record(events.StopRequested(time=self.now, reason=reason, grace=grace, by_user=by_user))
        self.change(grace=grace if self.state.grace is None else min(grace, self.state.grace))
        for name in self.state.nodes:
            self.stop_node(name)

    def stop_node(self, name: str) -> None:
        """Tell the node to stop if the attempt is to end. A node that is down is told once it is back."""
        node, grace = self.state.nodes[name], self.state.grace
        if grace is None or node.link is not Link.UP or node.finished:
            return
        if node.stop_grace is None or grace < node.stop_grace:
            self.change_node(name, stop_grace=grace)
            self.actions.append(actions.StopNode(name, self.state.attempt, grace))

    def after_the_end(self) -> None:
        if self.state.policy.passive:
            errors: list[OrchError] = [each.error for each in self.refusals()]
            errors += [
                ConnectionLost(failure.reason or "lost", host=failure.node)
                for failure in self.state.result.failures
                if failure.node in self.state.nodes and self.state.nodes[failure.node].link is Link.LOST
            ]
            self.over(actions.Finish(0, refusals=tuple(errors)))
        elif self.state.policy.records:
            self.change(phase=Phase.COLLECTING)
            if not self.state.collecting:
                self.collect_all()
        else:
            self.explain()

    def collect_all(self) -> None:
        self.change(collecting=True, collected=True)
        self.actions.append(actions.Collect(self.state.attempt, tuple(self.reachable()), final=True))

    def explain(self) -> None:
        self.change(phase=Phase.EXPLAINING)
        self.actions.append(actions.Explain(self.state.attempt))

    def wants_another(self) -> bool:
        """Return whether another attempt follows: after a failure, unless stopped, while restarts are left."""
        state, result = self.state, self.state.result
        stopped = state.stopped or state.leaving or result.stopped_by_user
        return not (result.ok or stopped or not result.failures) and state.attempt <= state.policy.max_restarts

    def prepare(self) -> None:
        first = self.state.phase is not Phase.PREPARING
        survivors = tuple(
            name
            for name in self.state.nodes
            if name not in self.state.result.lost and name not in self.state.given_up
        )
        tried = {name for name, under_way in self.state.fencing.items() if under_way}
        self.change(phase=Phase.PREPARING)
        self.actions.append(
            actions.Prepare(
                self.state.attempt + 1,
                survivors,
                len(self.state.nodes) - len(survivors),
                self.state.given_up | tried,
                self.state.found if first else None,
            )
        )

    def begin(self, attempt: int, nodes: tuple[str, ...], min_nodes: int | None) -> None:
        """Start an attempt on ``nodes``."""
        for name in nodes:
            self.forget_fence(name)
        self.change(
            phase=Phase.STARTING,
            attempt=attempt,
            nodes=dict.fromkeys(nodes, NodeState()),
            grace=None,
            found=None,
            collecting=False,
            collected=False,
            still={},
            watch=Watch.MOVING,
        )
        self.record(
            events.Planned(time=self.now, nodes=nodes, attempt=attempt, min_nodes=min_nodes, version=VERSION)
        )
        self.actions += [actions.Start(name, attempt) for name in nodes]

    def leave(self) -> None:
        if self.state.policy.records:
            self.record(events.Detached(time=self.now))
        self.over(actions.Finish(None, left=True))

    def finish(self) -> None:
        found = self.state.found
        code = exit_code(self.state.result, found.node if found else None)
        self.record(events.RunFinished(time=self.now, exit_code=code))
        self.over(actions.Finish(code, found))

    def over(self, last: actions.Finish) -> None:
        self.change(phase=Phase.OVER)
        self.actions.append(last)
