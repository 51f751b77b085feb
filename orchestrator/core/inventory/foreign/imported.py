"""What orch reads from another tool's list of hosts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Imported:
    """The hosts of another tool's file, with the keys and values that ``hosts.yaml`` would have for them.

    ``kind`` names the file's format. ``hosts`` maps host names to their keys, in node_rank order; ``top`` holds
    other top-level keys, such as ``master`` and ``rendezvous``. ``notes`` name, a line each, what could not be
    carried over, and where it stands in the file. ``incomplete`` says which hosts the file counts but does not
    name; None if it names all. ``places``: where each host stands, ``file:line``, if its keys stand there, too.
    """

    kind: str
    hosts: Mapping[str, Mapping[str, Any]]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    top: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    incomplete: str | None = None
    places: Mapping[str, str] = field(default_factory=dict)
