"""Read the hosts that a user types: names, ``user@host:port`` and ranges, separated by blanks or commas."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Mapping
from typing import Any

from orchestrator.core.inventory.destination import parse_hop
from orchestrator.core.inventory.foreign.gathering import is_address, words
from orchestrator.core.inventory.hostrange import RangeError, expand
from orchestrator.core.inventory.parsing import RESERVED_NAMES
from orchestrator.core.inventory.reading import NAME
from orchestrator.errors import UsageError


def typed_hosts(text: str, known: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    """Return the hosts in ``text`` by name, each with the keys that a hosts file would have for it.

    A host that is among ``known``, by name or by address and port, or that is typed twice, is left out; another
    host with a known name gets a name of its own. Raises UsageError for the first word that is no host; then
    nothing of the text counts.
    """
    found: dict[str, dict[str, Any]] = {}
    before = {name: dict(keys) for name, keys in (known or {}).items()}
    seen = {_where(name, keys) for name, keys in before.items()}
    for word in words(text):
        for each in _expanded(word):
            hop = parse_hop(each)
            if hop is None or not is_address(hop.host):
                raise UsageError(f"{each!r} is no host", remedy="type a name, user@host or user@host:port")
            if hop.host in before and hop.user is None and hop.port is None:
                continue
            name = free_name(hop.host, [*before, *found])
            given = {"address": hop.host if hop.host != name else None, "user": hop.user, "port": hop.port}
            keys = {key: value for key, value in given.items() if value is not None}
            if _where(name, keys) not in seen:
                seen.add(_where(name, keys))
                found[name] = keys
    return found


def _where(name: str, keys: Mapping[str, Any]) -> tuple[str, int | None]:
    return keys.get("address", name), keys.get("port")


def _expanded(word: str) -> list[str]:
    plain = word.removeprefix("ssh://").removesuffix("/")
    if parse_hop(plain) is not None:
        # Brackets around an IPv6 address are no range.
        return [plain]
    try:
        return expand(plain)
    except RangeError as error:
        raise UsageError(f"{word!r}: {error}", remedy="write a range as gpu[01-04] or gpu[1,3]") from None


def free_name(wanted: str, taken: Collection[str]) -> str:
    """Return a valid name for a host, close to ``wanted``, that is not in ``taken``."""
    name = re.sub(r"[^A-Za-z0-9._-]", "-", wanted).lstrip("._-")[:60] or "host"
    if RESERVED_NAMES.match(name):
        name = f"host-{name}"
    names = [name, *(f"{name[:57]}-{number}" for number in range(2, len(taken) + 3))]
    return next(each for each in names if each not in taken and NAME.match(each))


def is_numeric(address: str) -> bool:
    """Return whether ``address`` is a numeric address, which says nothing to a reader."""
    try:
        return bool(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return False
