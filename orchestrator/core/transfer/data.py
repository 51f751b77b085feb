"""Data for the nodes: the sources that the user named, their folders on a node, and the bytes each node lacks."""

from __future__ import annotations

import ipaddress
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from orchestrator.core.checks.facts import Address
from orchestrator.core.inventory.hosts import DataSource, Host
from orchestrator.core.transfer.local_tree import Entry, LocalTree


def parse_data(text: str, exists: bool) -> DataSource:
    """Parse ``PATH[:REMOTE]``; ``exists``: ``text`` as a whole, colons included, is an existing path."""
    path, colon, remote = text.rpartition(":")
    if exists or not colon or not path:
        return DataSource(text, None)
    return DataSource(path, remote or None)


def target_on_node(source: DataSource, name: str, is_file: bool, workdir: str) -> tuple[str, str | None]:
    """Return the target folder on a node and the name of a single file in it; None for a folder's files.

    ``{workdir}`` in a target stands for the host's working directory.
    """
    remote = (source.to or f"{{workdir}}/data/{name}").replace("{workdir}", workdir)
    if not is_file:
        return remote, None
    folder, last = posixpath.split(remote)
    return folder or ".", last or name


def named_on_node(tree: LocalTree, name: str | None) -> Sequence[Entry]:
    """Return a tree's entries under the names that they get on a node: a single file is called ``name`` there."""
    return tree.entries if name is None else [replace(tree.entries[0], path=name)]


@dataclass(frozen=True)
class Lacking:
    """Files that a node lacks. ``files`` maps a file's index in the entries to the bytes already on the node."""

    files: Mapping[int, int]

    def size(self, entries: Sequence[Entry]) -> int:
        """Return how many bytes the node still needs."""
        return sum(entries[index].size - have for index, have in self.files.items())


def to_send(lacking: Sequence[Lacking], entries: Sequence[Entry]) -> list[tuple[int, int]]:
    """Return the index of each file that any node lacks, with the first byte that some node needs."""
    found: dict[int, int] = {}
    for each in lacking:
        for index, have in each.files.items():
            found[index] = min(have, found.get(index, have))
    return sorted(found.items())


def listen_addresses(host: Host, addresses: Sequence[Address], others: Sequence[Sequence[Address]]) -> list[str]:
    """Return the addresses at which a node listens for other nodes, likeliest first.

    They are ``fabric_address`` alone, or else the address that SSH came in on (the first of ``addresses``) and
    those in a network that one of the ``others`` is in as well.
    """
    if host.fabric_address is not None:
        return [host.fabric_address]
    there = {_network(each) for other in others for each in other}
    kept = []
    for position, each in enumerate(addresses):
        # For hosts on one machine, SSH's loopback address is the right one; any other leads a node to itself.
        usable = ":" not in each.address and not ipaddress.ip_address(each.address).is_loopback
        if position == 0 or (usable and _network(each) in there):
            kept.append(each.address)
    return list(dict.fromkeys(kept))


def _network(each: Address) -> object:
    return ipaddress.ip_network(f"{each.address}/{each.prefix}", strict=False)
