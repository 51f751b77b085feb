"""The known_hosts format (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT): which keys are recorded for a host."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import hashlib
import hmac
from collections.abc import Iterable


class KnownHosts:
    """The lines of known_hosts files. Parsing keys is left to the caller, for the few lines that match."""

    def __init__(self, lines: Iterable[str]) -> None:
        # By their mark, which most lines do not have.
        self._lines: dict[str, list[tuple[str, str]]] = {"": [], "@revoked": [], "@cert-authority": []}
        for line in lines:
            # Words are parted by blanks and tabs.
            words = line.split()
            mark = words.pop(0) if words and words[0].startswith("@") else ""
            if len(words) > 2 and not words[0].startswith("#") and mark in self._lines:
                self._lines[mark].append((words[0], f"{words[1]} {words[2]}"))

    def lookup(self, name: str) -> tuple[str, ...]:
        """The recorded keys of ``host`` (or ``[host]:port``), each as ``type base64``, less those revoked."""
        revoked = self.revoked(name)
        return tuple(key for key in self._of("", name) if key not in revoked)

    def revoked(self, name: str) -> tuple[str, ...]:
        """The keys that must not be trusted for a host, whatever else is recorded."""
        return self._of("@revoked", name)

    def certified(self, name: str) -> bool:
        """Whether an authority's signature would make a host's key trusted."""
        return bool(self._of("@cert-authority", name))

    def _of(self, mark: str, name: str) -> tuple[str, ...]:
        return tuple(key for names, key in self._lines[mark] if _names(names, name))


def _names(field: str, name: str) -> bool:
    """Whether the first field of a line means a host: a hash, or patterns with ``*``, ``?`` and ``!``."""
    if field.startswith("|1|"):
        return _hash_matches(field, name)
    patterns = field.split(",")
    if any(pattern.startswith("!") and _fits(name, pattern[1:]) for pattern in patterns):
        return False
    return any(_fits(name, pattern) for pattern in patterns)


def _fits(name: str, pattern: str) -> bool:
    # Brackets are literal here, as in "[host]:port".
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def _hash_matches(field: str, name: str) -> bool:
    """``|1|salt|hash``: HMAC-SHA1 of the name with the salt as key."""
    try:
        salt, wanted = (base64.b64decode(part) for part in field.split("|")[2:4])
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), wanted)
