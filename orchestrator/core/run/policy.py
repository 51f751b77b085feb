"""What the user, the inventory and the verb want of a run."""

from __future__ import annotations

from dataclasses import dataclass

# How long a run may take to end by itself when it is stopped, in seconds: by its user, and because of a failure.
STOP_GRACE, FAILURE_GRACE = 30.0, 3.0


@dataclass(frozen=True)
class Grace:
    """How long ranks may take to end, in seconds: when their user stops them, and after a failure."""

    stop: float = STOP_GRACE
    failure: float = FAILURE_GRACE


def grace_of(inventorys: float | None, asked: float | None = None) -> Grace:
    """What was asked for, else what the inventory says, else what is usual."""
    chosen = asked if asked is not None else inventorys
    return Grace() if chosen is None else Grace(chosen, chosen)


@dataclass(frozen=True)
class Policy:
    """What the user, the inventory and the verb want. Times are in seconds.

    ``records``: this process keeps the record of the run, so it is the one that stops it after a failure and
    collects; two would disagree. ``passive``: nothing but reading is done. ``detach``: leave once all have begun.
    """

    node_timeout: float = 30.0
    grace: Grace = Grace()
    limit: float | None = None
    collect_every: float | None = None
    max_restarts: int = 0
    detach: bool = False
    records: bool = True
    passive: bool = False
