"""Detection of nodes that keep their workdir on a shared disk; see ``node/host/shared_disk.py``."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from orchestrator.protocol.transfer import SharedDiskToken, TokenSeen
from orchestrator.remote.fanout import failures, on_all
from orchestrator.remote.node import Node

LOOK_TIMEOUT = 60.0


class OnDisk(Protocol):
    """A node, its workdir, and the id of the workdir's disk (``disk_id``)."""

    node: Node
    workdir: str

    @property
    def disk_id(self) -> str | None:
        """The disk's id; None if the node was not asked."""


Asked = TypeVar("Asked", bound=OnDisk)


def groups_by_disk(
    askers: Sequence[Asked], wanted: Callable[[Asked], object] = lambda asked: None
) -> list[list[Asked]]:
    """Return groups of nodes that share a disk and want the same; most groups have one node.

    Raises the error of a node that cannot be asked.
    """
    alike: dict[object, list[Asked]] = {}
    for asked in askers:
        key = asked.node.name if asked.disk_id is None else (asked.disk_id, wanted(asked))
        alike.setdefault(key, []).append(asked)
    return [group for each in alike.values() for group in (_by_token(each) if len(each) > 1 else [each])]


def _by_token(alike: Sequence[Asked]) -> list[list[Asked]]:
    """Group nodes whose disks have one id: those that see the first node's token, and each other node alone."""
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
