"""Data for the nodes: what the user named, where it goes, and in which order it passes through them."""

from __future__ import annotations

import ipaddress
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.inventory import DataSource, Host
from orchestrator.core.snapshot import Entry


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


def doors(host: Host, addresses: Sequence[str | None]) -> list[str]:
    """The addresses to try for a node, the likeliest first: the named one, the one that SSH uses, its others."""
    usable = [host.fabric_address, *addresses]
    kept = []
    for position, address in enumerate(usable):
        if address is None or ":" in address.removeprefix("::ffff:"):
            continue
        plain = address.removeprefix("::ffff:")
        # Of hosts on one machine SSH's loopback address is the right one, any other leads a node to itself.
        if position < 2 or not ipaddress.ip_address(plain).is_loopback:
            kept.append(plain)
    return list(dict.fromkeys(kept))
