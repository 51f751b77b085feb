"""A recorded run in a line: what it was, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import Interrupted
from orchestrator.protocol.events import Diagnosed, Event, Planned, RunFinished

# States of a recorded run. Nobody saw the end of a run that is ``left``: it was detached from, or orch was killed.
STATES = ("running", "ok", "failed", "stopped", "left")


@dataclass(frozen=True)
class Ending:
    """How a run ended. ``ended``: seconds since the epoch. ``what``: what failed, in words."""

    state: str
    ended: float | None = None
    exit_code: int | None = None
    what: str | None = None


@dataclass(frozen=True)
class RecordedRun:
    """A run of the runs folder. Times are in seconds since the epoch, ``size`` in bytes.

    ``metrics``: the newest value of each.
    """

    run_id: str
    workload: str
    args: tuple[str, ...]
    nodes: tuple[str, ...]
    state: str
    name: str | None = None
    began: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    what: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    size: int = 0
    tags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def duration(self) -> float | None:
        """Seconds from start to end; None until both are known."""
        return None if self.began is None or self.ended is None else self.ended - self.began

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RecordedRun:
        """Return the run that ``asdict`` made ``value`` of. Raises TypeError."""
        lists = {name: tuple(value[name]) for name in ("args", "nodes", "tags", "notes")}
        return cls(**{**value, **lists})


def ending(last_events: Sequence[Event], recorded: bool) -> Ending:
    """Return how a run ended, from its last events. ``recorded``: whether a process records it now."""
    finished = next((each for each in reversed(last_events) if isinstance(each, RunFinished)), None)
    if recorded:
        return Ending("running")
    if finished is None:
        return Ending("left")
    begun = max((at for at, each in enumerate(last_events) if isinstance(each, Planned)), default=0)
    what = next((each.what for each in reversed(last_events[begun:]) if isinstance(each, Diagnosed)), None)
    if finished.exit_code == 0:
        return Ending("ok", finished.time, 0)
    state = "stopped" if finished.exit_code == Interrupted.exit_code else "failed"
    return Ending(state, finished.time, finished.exit_code, what if state == "failed" else None)


@dataclass(frozen=True)
class Selection:
    """Which runs to list. ``since``: began at this time or later, in seconds since the epoch."""

    states: tuple[str, ...] = ()
    workload: str | None = None
    since: float | None = None
    tag: str | None = None
    text: str | None = None

    def __contains__(self, run: object) -> bool:
        assert isinstance(run, RecordedRun)
        words = " ".join([run.run_id, run.name or "", run.workload, *run.args, *run.tags, *run.notes])
        return (
            (not self.states or run.state in self.states)
            and (self.workload is None or run.workload in (self.workload, f"{self.workload}.py"))
            and (self.since is None or (run.began or 0) >= self.since)
            and (self.tag is None or self.tag in run.tags)
            and (self.text is None or self.text.lower() in words.lower())
        )
