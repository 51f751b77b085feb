"""Data for the nodes: what the user named, where it goes, and in which order it passes through them."""

from __future__ import annotations

import ipaddress
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.checks.facts import Address
from orchestrator.core.inventory.hosts import DataSource, Host
from orchestrator.core.transfer.snapshot import Entry


def parse_data(text: str, exists: bool) -> DataSource:
    """``PATH[:REMOTE]``; ``exists``: there is something whose name is all of it, colons included."""
    path, colon, remote = text.rpartition(":")
    if exists or not colon or not path:
        return DataSource(text, None)
    return DataSource(path, remote or None)


def root_on_node(source: DataSource, name: str, is_file: bool, workdir: str) -> tuple[str, str | None]:
    """The folder on a node, and the name that a single file gets there; a folder's files keep theirs.

    ``{workdir}`` in a target is the host's own.
    """
    remote = (source.to or f"{{workdir}}/data/{name}").replace("{workdir}", workdir)
    if not is_file:
        return remote, None
    folder, last = posixpath.split(remote)
    return folder or ".", last or name


@dataclass(frozen=True)
class Lacking:
    """What a node lacks: for each file, by its place in the list, how many bytes of it are there."""

    files: Mapping[int, int]

    def size(self, entries: Sequence[Entry]) -> int:
        """Bytes that have to come."""
        return sum(entries[index].size - have for index, have in self.files.items())


def to_send(lacking: Sequence[Lacking], entries: Sequence[Entry]) -> list[tuple[int, int]]:
    """The files that any of the nodes lacks, each from the first byte that one of them lacks."""
    found: dict[int, int] = {}
    for each in lacking:
        for index, have in each.files.items():
            found[index] = min(have, found.get(index, have))
    return sorted(found.items())


def doors(host: Host, addresses: Sequence[Address], others: Sequence[Sequence[Address]]) -> list[str]:
    """Where a node is to be dialled, and so to listen, the likeliest first.

    That is ``fabric_address``, or the address that SSH came in on (the first of ``addresses``) and those in a
    network that one of the ``others`` is in, too.
    """
    if host.fabric_address is not None:
        return [host.fabric_address]
    there = {_network(each) for other in others for each in other}
    kept = []
    for position, each in enumerate(addresses):
        # Of hosts on one machine SSH's loopback address is the right one, any other leads a node to itself.
        usable = ":" not in each.address and not ipaddress.ip_address(each.address).is_loopback
        if position == 0 or (usable and _network(each) in there):
            kept.append(each.address)
    return list(dict.fromkeys(kept))


def _network(each: Address) -> object:
    return ipaddress.ip_network(f"{each.address}/{each.prefix}", strict=False)
