"""Which nodes keep what is synced on one disk, as those with a shared home do; see
``node/host/shared_disk.py``."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from orchestrator.protocol.transfer import SharedDiskToken, TokenSeen
from orchestrator.remote.connect.fanout import failures, on_all
from orchestrator.remote.node import Node

LOOK_TIMEOUT = 60.0


class Placed(Protocol):
    """A node that said where it keeps things: ``place`` is the id of its workdir's disk."""

    node: Node
    workdir: str

    @property
    def place(self) -> str | None:
        """None if it was not asked."""


Asked = TypeVar("Asked", bound=Placed)


def groups_by_disk(
    askers: Sequence[Asked], wanted: Callable[[Asked], object] = lambda asked: None
) -> list[list[Asked]]:
    """The nodes that were asked in groups that share a disk, and want the same; most groups have one.

    Raises what a node that cannot be asked raises.
    """
    alike: dict[object, list[Asked]] = {}
    for asked in askers:
        key = asked.node.name if asked.place is None else (asked.place, wanted(asked))
        alike.setdefault(key, []).append(asked)
    return [group for each in alike.values() for group in (_by_token(each) if len(each) > 1 else [each])]


def _by_token(alike: Sequence[Asked]) -> list[list[Asked]]:
    """Of nodes whose disks have one id, those that see what the first one writes, and the others alone."""
    first, *others = alike
    token = secrets.token_hex(8)

    def ask(asked: Asked, op: str) -> bool:
        request = SharedDiskToken(workdir=asked.workdir, token=token, op=op)
        return asked.node.ask(request, TokenSeen.from_wire, LOOK_TIMEOUT).there

    ask(first, "write")
    try:
        seen = on_all(others, lambda other: ask(other, "look"))
    finally:
        ask(first, "remove")
    for error in failures(seen):
        raise error
    together = [other for other, there in zip(others, seen, strict=True) if there is True]
    apart = [[other] for other, there in zip(others, seen, strict=True) if there is not True]
    return [[first, *together], *apart]
