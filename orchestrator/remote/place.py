"""Whether two nodes keep what is synced on one disk, as those with a shared home do; see ``node/place.py``."""

from __future__ import annotations

import secrets
from typing import Protocol

from orchestrator.remote.node import Node

SILENCE = 60.0


class Placed(Protocol):
    """A node that said where it keeps things: ``place`` is the id of its workdir's disk."""

    node: Node
    workdir: str

    @property
    def place(self) -> str | None:
        """None if it was not asked."""


def share_a_disk(one: Placed, other: Placed) -> bool:
    """Whether two nodes' workdirs are one: a token written through one is seen through the other."""
    if one.place is None or one.place != other.place:
        return False
    token = secrets.token_hex(8)
    request = {"workdir": one.workdir, "token": token}
    one.node.ask("token", {**request, "write": True}, SILENCE)
    try:
        seen = other.node.ask("token", {**request, "workdir": other.workdir, "write": False}, SILENCE)
        return bool(seen["there"])
    finally:
        one.node.ask("token", {**request, "write": None}, SILENCE)
