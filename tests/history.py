"""Events of a run, as tests write them down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.protocol.events import EVENT, Event

# What a kind cannot be without, and few tests are about.
USUAL: Mapping[str, Mapping[str, Any]] = {
    "worker": {"local_rank": 0, "pid": 1, "logs": "logs/x"},
    "rank_failed": {"local_rank": 0, "pid": 1, "failed_at": None},
}


def happened(time: float, kind: str, node: str | None, fields: Mapping[str, Any]) -> Event:
    """The event, through the door that all events come in by."""
    value = {**USUAL.get(kind, {}), **fields, "time": time, "event": kind, "node": node}
    event: Event = EVENT(value, "event")
    return event
