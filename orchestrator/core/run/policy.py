"""The policy of a run: limits, restarts, and what this process may do."""

from __future__ import annotations

from dataclasses import dataclass

# How long a stopped run may take to end by itself, in seconds: after a stop by its user, and after a failure.
STOP_GRACE, FAILURE_GRACE = 30.0, 3.0
# What may follow when no rank makes progress, in the words of --on-hang.
REPORT, STOP, RESTART = "report", "stop", "restart"


@dataclass(frozen=True)
class Grace:
    """How long ranks may take to end, in seconds: after a stop by their user, and after a failure."""

    stop: float = STOP_GRACE
    failure: float = FAILURE_GRACE


def grace_of(inventorys: float | None, asked: float | None = None) -> Grace:
    """Return the grace asked for, else the inventory's, else the default."""
    chosen = asked if asked is not None else inventorys
    return Grace() if chosen is None else Grace(chosen, chosen)


@dataclass(frozen=True)
class Policy:
    """Settings of a run from the user, the inventory and the verb. Times are in seconds.

    ``records``: this process keeps the run's record, so it alone stops the run after a failure and collects its
    outputs. ``on_hang``: what follows when no rank makes progress. ``passive``: only read, change nothing.
    ``detach``: leave once every node has started.
    """

    node_timeout: float = 30.0
    grace: Grace = Grace()
    limit: float | None = None
    collect_every: float | None = None
    max_restarts: int = 0
    detach: bool = False
    records: bool = True
    on_hang: str = REPORT
    passive: bool = False
