"""Build events of a run for tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.protocol.events import EVENT, Event

# Fields that a kind requires but few tests are about.
USUAL: Mapping[str, Mapping[str, Any]] = {
    "worker": {"local_rank": 0, "pid": 1, "logs": "logs/x"},
    "rank_failed": {"local_rank": 0, "pid": 1, "failed_at": None},
}


def happened(time: float, kind: str, node: str | None, fields: Mapping[str, Any]) -> Event:
    """Return the event, checked as every event that comes in."""
    value = {**USUAL.get(kind, {}), **fields, "time": time, "event": kind, "node": node}
    event: Event = EVENT(value, "event")
    return event
