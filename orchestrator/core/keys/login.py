"""The user's key on the hosts: its purpose, and what has to happen where."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from orchestrator.protocol.keys import AUTHORIZED_KEYS, LOGIN


@dataclass(frozen=True)
class Installation:
    """A key to install on a host. ``source``: where the private half is.

    ``public``: None if the key is yet to be made. ``by_password``: whether no key opens the host yet.
    """

    source: str
    public: str | None
    by_password: bool

    @property
    def told(self) -> str:
        """What will be done on the host."""
        how = ", after a login with the password" if self.by_password else ""
        return f"add the key of {self.source} to ~/.ssh/{AUTHORIZED_KEYS}{how}"


def blob_of(public: str) -> str:
    """Return a public key without its comment."""
    return " ".join(public.split()[:2])


def login_purpose(public: str) -> str:
    """Return the purpose of a key's entries on the hosts; the comment does not matter."""
    try:
        blob = base64.b64decode(public.split()[1], validate=True)
    except (IndexError, binascii.Error):
        raise ValueError(f"not a public key: {public[:40]!r}") from None
    return f"{LOGIN} SHA256:{base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip('=')}"


def login_entries(public: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return the entries that let a key log in."""
    return {login_purpose(public): {AUTHORIZED_KEYS: (public,)}}
