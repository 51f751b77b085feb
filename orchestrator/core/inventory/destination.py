"""Accepted forms of host names, addresses, user names and hops; none can hold quotes, ``$``, ``;`` or blanks."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,252}\Z")
_SCOPE = re.compile(r"[A-Za-z0-9_.-]+\Z")
# Active Directory writes users as DOMAIN\user and user@domain.
_USER = re.compile(r"(?:[A-Za-z0-9_.][A-Za-z0-9._-]{0,127}\\)?[A-Za-z0-9_.+][A-Za-z0-9._@+-]{0,127}\Z")
_PORT = re.compile(r"[1-9][0-9]{0,4}\Z")


@dataclass(frozen=True)
class Hop:
    """A jump host. None leaves the user or the port to ``~/.ssh/config``."""

    host: str
    user: str | None = None
    port: int | None = None


def is_machine(text: str) -> bool:
    """Return whether ``text`` is a host name or a numeric address; an IPv6 address may have a scope."""
    address, percent, scope = text.partition("%")
    if ":" not in address:
        return _HOST.match(text) is not None
    if percent and not _SCOPE.match(scope):
        return False
    try:
        return bool(ipaddress.IPv6Address(address))
    except ValueError:
        return False


def is_user(text: str) -> bool:
    """Return whether ``text`` is a user name."""
    return _USER.match(text) is not None


def is_endpoint(text: str) -> bool:
    """Return whether ``text`` is ``host``, ``host:port`` or ``[IPv6]:port``."""
    return is_machine(text) or _with_port(text) is not None


def is_hop(text: str) -> bool:
    """Return whether ``text`` is ``[user@]host[:port]``."""
    return parse_hop(text) is not None


def parse_hop(text: str) -> Hop | None:
    """Parse ``[user@]host[:port]``, with an IPv6 address in brackets before a port; None if it is malformed."""
    user, at, where = text.rpartition("@")
    if at and not is_user(user):
        return None
    if is_machine(where):
        return Hop(where, user or None)
    found = _with_port(where)
    return Hop(found[0], user or None, found[1]) if found else None


def _with_port(text: str) -> tuple[str, int] | None:
    name, _, port = text.rpartition(":")
    bracketed = name.startswith("[") and name.endswith("]")
    host = name[1:-1] if bracketed else name
    if bracketed != (":" in host) or not is_machine(host) or not _PORT.match(port) or int(port) > 65535:
        return None
    return host, int(port)
