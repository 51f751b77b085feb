"""Lists of hosts as people write them: one host a line, a list on the command line, a Slurm node list."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

from orchestrator.core.inventory.foreign.gathering import Gathering, without_comment, words
from orchestrator.core.inventory.foreign.imported import Imported

_DIMENSIONS = re.compile(r"\[\d+x\d+", re.ASCII)


def parse_plain(texts: Mapping[str, str]) -> Imported:
    """Return the hosts of ``hosts.txt``: ``[user@]host[:port]``, ranges, or ``ADDRESS NAME`` as in /etc/hosts.

    Raises InventoryError.
    """
    ((source, text),) = texts.items()
    gathering = Gathering("list of hosts", source)
    for line, whole in enumerate(text.splitlines(), 1):
        found = words(without_comment(whole))
        if len(found) > 1 and _address(found[0]) and not _address(found[1]) and "," not in whole:
            _add_named(gathering, line, found)
            continue
        if len(found) > 1 and "," not in whole:
            gathering.mistake(line, without_comment(whole), "one host a line, or commas between hosts")
            continue
        for word in found:
            gathering.add_destination(line, word)
    return gathering.imported(places=gathering.places)


def parse_slurm(texts: Mapping[str, str]) -> Imported:
    """Return the nodes of ``$SLURM_JOB_NODELIST``, such as ``node[01-04,07],gpu1``. Raises InventoryError."""
    ((source, text),) = texts.items()
    gathering = Gathering("Slurm node list", source)
    for line, whole in enumerate(text.splitlines(), 1):
        for word in words(without_comment(whole)):
            if _DIMENSIONS.search(word):
                gathering.mistake(line, word, "ranges such as node[01-04,07]; write out nodes with coordinates")
            elif "@" in word or ":" in word or "(" in word:
                gathering.mistake(line, word, "a node name or range, as in $SLURM_JOB_NODELIST")
            else:
                gathering.add_destination(line, word)
    return gathering.imported(places=gathering.places)


def _address(word: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(word)
    except ValueError:
        return None


def _add_named(gathering: Gathering, line: int, found: list[str]) -> None:
    """Add the host of a line of /etc/hosts: an address, its name, further names."""
    address = _address(found[0])
    if address is not None and (address.is_loopback or address.is_multicast or address.is_unspecified):
        gathering.note(line, f"{found[1]} is left out: {found[0]} is not the address of another machine")
        return
    gathering.add(line, found[1], {"address": found[0]})
