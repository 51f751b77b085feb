"""Fences: a lost node may have been replaced, so none of the run's processes may go on there."""

from __future__ import annotations

from orchestrator.core.run import actions, inputs
from orchestrator.core.run.actions import Deadline
from orchestrator.core.run.state import Link, Phase
from orchestrator.core.run.turn.turn import PAUSE_LONGEST, Turn
from orchestrator.protocol import events


class Fences(Turn):
    """The part of a step that loses and fences nodes."""

    def lose(self, name: str, reason: str) -> None:
        """Give a node up, and fence it unless this process only reads."""
        self.record(events.NodeLost(time=self.now, node=name, reason=reason))
        self.change_node(name, link=Link.LOST)
        if not self.state.policy.passive:
            self.change(fencing={**self.state.fencing, name: False})
            self.wait(Deadline.FENCE, PAUSE_LONGEST, name)

    def try_fence(self, name: str) -> None:
        """Try to fence a node, or later if the next attempt may be in preparation there."""
        if self.state.fencing.get(name) is not False:
            return
        if self.state.phase is Phase.PREPARING:
            # The next attempt may be in preparation on this node.
            self.wait(Deadline.FENCE, PAUSE_LONGEST, name)
            return
        self.change(fencing={**self.state.fencing, name: True})
        self.actions.append(actions.Fence(name, self.state.attempt))

    def take_fence(self, told: inputs.Fenced | inputs.FenceFailed) -> None:
        """Handle the outcome of a try to fence."""
        if told.node not in self.state.fencing:
            return
        if isinstance(told, inputs.Fenced):
            self.forget_fence(told.node)
            self.record(events.Fenced(time=self.now, node=told.node))
        else:
            self.change(fencing={**self.state.fencing, told.node: False})
            self.wait(Deadline.FENCE, PAUSE_LONGEST, told.node)
        if self.state.postponed and not any(self.state.fencing.values()):
            self.change(postponed=False)
            self.prepare()

    def forget_fence(self, name: str) -> None:
        """Fence a node no longer."""
        self.change(fencing={node: tried for node, tried in self.state.fencing.items() if node != name})
