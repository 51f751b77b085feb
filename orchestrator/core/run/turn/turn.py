"""One step of a run's state machine in progress: what all parts of it use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

from orchestrator.core.run import actions
from orchestrator.core.run.actions import Action, Deadline, Timer
from orchestrator.core.run.state import Link, RunState
from orchestrator.protocol.events import Event

# Longest pause between two tries to reach a node, in seconds.
PAUSE_LONGEST = 3.0

Step = tuple[RunState, tuple[Action, ...]]


class Turn(ABC):
    """The changed state, and the actions so far. ``now``: seconds since the epoch."""

    def __init__(self, state: RunState, now: float) -> None:
        self.state = state
        self.now = now
        self.actions: list[Action] = []

    @abstractmethod
    def prepare(self) -> None:
        """Prepare the next attempt."""

    @abstractmethod
    def stop(self, reason: str, grace: float, by_user: bool) -> None:
        """Stop the attempt on all nodes within ``grace`` seconds."""

    def done(self) -> Step:
        """Return the state and the actions."""
        return self.state, tuple(self.actions)

    def change(self, **values: object) -> None:
        """Change the state."""
        self.state = replace(self.state, **values)  # type: ignore[arg-type]

    def change_node(self, name: str, **values: object) -> None:
        """Change a node's state."""
        changed = replace(self.state.nodes[name], **values)  # type: ignore[arg-type]
        self.change(nodes={**self.state.nodes, name: changed})

    def record(self, event: Event) -> None:
        """Record an event."""
        self.change(result=self.state.result.after(event))
        self.actions.append(actions.Record(event))

    def wait(self, kind: Deadline, seconds: float, node: str | None = None) -> None:
        """Set a deadline of this attempt, ``seconds`` from now."""
        self.actions.append(actions.Wait(Timer(kind, self.state.attempt, node), seconds))

    def reachable(self) -> list[str]:
        """Return the names of the nodes that are not lost."""
        return [name for name, node in self.state.nodes.items() if node.link is not Link.LOST]
