"""Logins between nodes: what each node is told about all of them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from orchestrator.core.inventory.destination import is_machine, is_user
from orchestrator.core.keys.login import blob_of
from orchestrator.errors import PreflightError
from orchestrator.protocol.keys import AUTHORIZED_KEYS, BETWEEN, BETWEEN_KEY, CONFIG, KNOWN_HOSTS

PREFIX = f"{BETWEEN} "


@dataclass(frozen=True)
class Peer:
    """A node that logs in to the others, and that they log in to.

    ``public``: its key's public half. ``host_key``: its SSH server's, ``type base64``, as the control machine
    verified it. ``names``: by which the others may call it. ``sources``: numeric addresses that it may call from.
    """

    name: str
    user: str
    port: int
    public: str
    host_key: str
    names: tuple[str, ...]
    sources: tuple[str, ...]


def between_entries(cluster: str, peers: Sequence[Peer]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the entries by purpose, equal for all nodes, so that nodes may share a home folder.

    Raises PreflightError for what a node says about itself if it does not fit into the others' files.
    """
    for peer in peers:
        if not is_user(peer.user):
            raise PreflightError(f"its user has the unusual name {ascii(peer.user)[:60]}", host=peer.name)
    sources: dict[str, list[str]] = {}
    for peer in peers:
        sources.setdefault(blob_of(peer.public), []).extend(peer.sources)
    return {
        f"{PREFIX}{quote(cluster, safe='')[:150]}/{peer.name}": {
            AUTHORIZED_KEYS: (authorized(peer.public, sources[blob_of(peer.public)]),),
            KNOWN_HOSTS: (known(peer),),
            CONFIG: (block(peer),),
        }
        for peer in peers
    }


def authorized(public: str, sources: Iterable[str]) -> str:
    """Return the line of authorized_keys that accepts a key from these addresses only."""
    addresses = ",".join(sorted({source for source in sources if _is_source(source)}))
    return f'from="{addresses}" {public}' if addresses else public


def _is_source(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return not (found.is_loopback or found.is_link_local or found.is_unspecified)


def _names(peer: Peer) -> list[str]:
    return list(dict.fromkeys(name for name in peer.names if is_machine(name)))


def known(peer: Peer) -> str:
    """Return the line of known_hosts, by all names of a node."""
    names = [name if peer.port == 22 else f"[{name}]:{peer.port}" for name in _names(peer)]
    return f"{','.join(names)} {peer.host_key}"


def block(peer: Peer) -> str:
    """Return the block of ssh_config(5) that offers the key to a node, and ends every other block's reach."""
    return "\n".join(
        [
            f"# orch keys --between: {peer.name}",
            f"Match host {','.join(_names(peer))} user {peer.user}",
            f"    IdentityFile ~/.ssh/{BETWEEN_KEY}",
            "Match all",
            f"# end of orch keys --between: {peer.name}",
        ]
    )
