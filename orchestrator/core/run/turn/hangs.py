"""Hangs: what ranks do that make no progress is looked at once for each time that they stop making any."""

from __future__ import annotations

from orchestrator.core.run import actions
from orchestrator.core.run.actions import Deadline
from orchestrator.core.run.policy import REPORT, STOP
from orchestrator.core.run.state import Link, Phase, RunState, Watch
from orchestrator.core.run.turn.turn import Turn
from orchestrator.protocol import events

# Ranks do not become still all at once. Part of the time asked for after which those that are count alone.
MARGIN = 0.25


def stillness(state: RunState) -> Watch:
    """Return ``MOVING`` if no rank of the attempt is still, ``SOME`` if some are, or ``ALL``."""
    parts = [
        state.still.get(name) for name, node in state.nodes.items() if not node.link.over and not node.finished
    ]
    told = [part for part in parts if part is not None and part.ranks]
    if not told:
        return Watch.MOVING
    everyone = len(told) == len(parts) and all(len(part.ranks) == part.among for part in told)
    return Watch.ALL if everyone else Watch.SOME


class Hangs(Turn):
    """The part of a step that watches for hangs."""

    def watch(self) -> None:
        """Begin what follows from how many ranks are still."""
        now, before = stillness(self.state), self.state.watch
        if now is Watch.MOVING or not self.state.policy.records or self.state.grace is not None:
            self.change(watch=Watch.MOVING)
        elif now is Watch.ALL and before is not Watch.ALL:
            self.look(Watch.ALL)
        elif now is Watch.SOME and before is Watch.ALL:
            # The hang is known; another one would be looked at.
            self.change(watch=Watch.SOME)
        elif now is Watch.SOME and before is Watch.MOVING:
            self.change(watch=Watch.WAITING)
            self.wait(Deadline.HANG, MARGIN * max(part.after for part in self.state.still.values()))

    def look(self, watch: Watch) -> None:
        """Look at what the ranks do."""
        self.change(watch=watch)
        ranks = frozenset(rank for part in self.state.still.values() for rank in part.ranks)
        seconds = max(part.after for part in self.state.still.values())
        there = tuple(name for name in self.reachable() if self.state.nodes[name].link is Link.UP)
        self.actions.append(actions.Look(self.state.attempt, there, ranks, seconds, watch is Watch.ALL))

    def take_looked(self, found: events.Hang) -> None:
        """Record a hang unless ranks move again, and end the attempt if that was asked for."""
        still = Phase.RUNNING is self.state.phase and self.state.grace is None
        if not still or self.state.watch is not (Watch.ALL if found.everyone else Watch.SOME):
            return
        ends = found.everyone and self.state.policy.on_hang != REPORT
        self.record(found.replace(ends=ends))
        if ends:
            self.change(stopped=self.state.stopped or self.state.policy.on_hang == STOP)
            self.stop(self.state.result.failures[-1].describe(), self.state.policy.grace.failure, by_user=False)
