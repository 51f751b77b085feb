"""Logins between nodes: what each node is told about all of them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from orchestrator.core.checks.facts import Facts
from orchestrator.core.inventory.destination import is_machine, is_user
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.keys.login import blob_of
from orchestrator.core.launch.addresses import VIRTUAL
from orchestrator.errors import PreflightError
from orchestrator.protocol.keys import AUTHORIZED_KEYS, BETWEEN, BETWEEN_KEY, CONFIG, KNOWN_HOSTS

PREFIX = f"{BETWEEN} "


@dataclass(frozen=True)
class Peer:
    """A node that logs in to the others, and that they log in to.

    ``public``: its key's public half. ``host_key``: its SSH server's, ``type base64``, as the control machine
    verified it. ``names``: by which the others may call it. ``sources``: addresses and networks that it may call
    from.
    """

    name: str
    user: str
    port: int
    public: str
    host_key: str
    names: tuple[str, ...]
    sources: tuple[str, ...]


def peer(host: Host, facts: Facts, public: str, host_key: str, reached_at: Iterable[str]) -> Peer:
    """Return a node as a peer. ``reached_at``: addresses at which it is reached, besides its own.

    Raises PreflightError if its user's name would not fit into the others' files.
    """
    if not is_user(facts.user):
        raise PreflightError(f"its user has the unusual name {ascii(facts.user)[:60]}", host=host.name)
    own = [each for each in facts.addresses if not each.interface.startswith(VIRTUAL)]
    reached = [
        address
        for address in (*reached_at, host.fabric_address, facts.ssh_address)
        if address and not _is_local(address)
    ]
    # A node's own IPv6 addresses may be temporary: it is not called by them, and calls from the whole network.
    old = sorted(each.address for each in own if ":" not in each.address and not _is_local(each.address))
    networks = sorted(
        str(ipaddress.ip_network(f"{each.address.partition('%')[0]}/{each.prefix}", strict=False))
        for each in own
        if ":" in each.address and not _is_local(each.address)
    )
    names = dict.fromkeys(name for name in (*reached, host.address, host.name, *old) if is_machine(name))
    sources = dict.fromkeys([*(each for each in reached if _is_numeric(each)), *old, *networks])
    return Peer(
        name=host.name,
        user=facts.user,
        port=host.port or 22,
        public=public,
        host_key=host_key,
        names=tuple(names),
        sources=tuple(sources),
    )


def between_entries(cluster: str, peers: Sequence[Peer]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the entries by purpose. They are equal for all nodes, so that nodes may share a home folder."""
    sources: dict[str, list[str]] = {}
    for each in peers:
        sources.setdefault(blob_of(each.public), []).extend(each.sources)
    return {
        f"{PREFIX}{quote(cluster, safe='')[:150]}/{each.name}": {
            AUTHORIZED_KEYS: (authorized(each.public, sources[blob_of(each.public)]),),
            KNOWN_HOSTS: (known(each),),
            CONFIG: (block(each),),
        }
        for each in peers
    }


def authorized(public: str, sources: Iterable[str]) -> str:
    """Return the line of authorized_keys that accepts a key from these addresses and networks only."""
    addresses = ",".join(sorted(set(sources)))
    return f'from="{addresses}" {public}' if addresses else public


def known(node: Peer) -> str:
    """Return the line of known_hosts, by all names of a node."""
    names = [name if node.port == 22 else f"[{name}]:{node.port}" for name in node.names]
    return f"{','.join(names)} {node.host_key}"


def block(node: Peer) -> str:
    """Return the block of ssh_config(5) that offers the key to a node.

    ``Match all`` ends it: lines that are added later apply to all hosts again.
    """
    return "\n".join(
        [
            f"# orch keys --between: {node.name}",
            f"Match host {','.join(node.names)} user {node.user}",
            f"    IdentityFile ~/.ssh/{BETWEEN_KEY}",
            "Match all",
            f"# end of orch keys --between: {node.name}",
        ]
    )


def _is_numeric(address: str) -> bool:
    try:
        return bool(ipaddress.ip_address(address)) and "%" not in address
    except ValueError:
        return False


def _is_local(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return found.is_loopback or found.is_link_local or found.is_unspecified
