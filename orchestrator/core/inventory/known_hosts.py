"""Look up a host's keys in the known_hosts format (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT)."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
from collections.abc import Iterable


class KnownHosts:
    """The lines of known_hosts files. Keys stay text: callers parse only the few that match."""

    def __init__(self, lines: Iterable[str]) -> None:
        # Keyed by marker; most lines have none.
        self._lines: dict[str, list[tuple[str, str]]] = {"": [], "@revoked": [], "@cert-authority": []}
        for line in lines:
            # Fields are separated by spaces and tabs.
            words = line.split()
            mark = words.pop(0) if words and words[0].startswith("@") else ""
            if len(words) > 2 and not words[0].startswith("#") and mark in self._lines:
                self._lines[mark].append((words[0], f"{words[1]} {words[2]}"))

    def lookup(self, name: str) -> tuple[str, ...]:
        """Return the keys recorded for ``name``, each as ``type base64``, without revoked ones.

        ``name`` is ``host`` or ``[host]:port``, here and in the other methods.
        """
        revoked = self.revoked(name)
        return tuple(key for key in self._of("", name) if key not in revoked)

    def revoked(self, name: str) -> tuple[str, ...]:
        """Return the keys that must not be trusted for a host, even if another line records them."""
        return self._of("@revoked", name)

    def certified(self, name: str) -> bool:
        """Return whether a certificate authority is recorded for a host."""
        return bool(self._of("@cert-authority", name))

    def _of(self, mark: str, name: str) -> tuple[str, ...]:
        return tuple(key for names, key in self._lines[mark] if _names(names, name))


def _names(field: str, name: str) -> bool:
    """Return whether a line's first field, a hash or patterns with ``*``, ``?`` and ``!``, matches a host."""
    if field.startswith("|1|"):
        return _hash_matches(field, name)
    patterns = field.split(",")
    if any(pattern.startswith("!") and _fits(name, pattern[1:]) for pattern in patterns):
        return False
    return any(_fits(name, pattern) for pattern in patterns)


def _fits(name: str, pattern: str) -> bool:
    # fnmatch gives brackets a meaning; here they are literal, as in "[host]:port".
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def _hash_matches(field: str, name: str) -> bool:
    """Return whether ``|1|salt|hash`` is the HMAC-SHA1 of ``name`` with the salt as key."""
    try:
        salt, wanted = (base64.b64decode(part) for part in field.split("|")[2:4])
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), wanted)
