"""The user's own keys: those in files, and those that the SSH agent holds."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import paramiko

from orchestrator.remote.ssh.host_keys import Keyring

DEFAULT_FILES = ("~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa")
"""The files that paramiko offers unless others are named; a new key becomes the first."""


@dataclass(frozen=True)
class Identity:
    """A key of the user. ``source``: its file, or the agent. ``public``: ``type base64 comment``.

    ``locked``: it has a passphrase, and the agent does not hold it; then ``public`` may be unknown.
    """

    source: str
    public: str | None
    locked: bool = False


@dataclass(frozen=True)
class Identities:
    """The keys that are offered to a host, the one to install first; ``place``: the file for a new one."""

    keys: tuple[Identity, ...]
    place: str

    @property
    def usable(self) -> Identity | None:
        """The key to install; None if there is none."""
        return next((key for key in self.keys if not key.locked), None)

    @property
    def locked(self) -> Identity | None:
        """A key that could be installed if its passphrase were known to an agent."""
        return next((key for key in self.keys if key.locked), None)


def find_identities(named: Sequence[str], keyring: Keyring) -> Identities:
    """Return the keys in the ``named`` files or, if none is named, in the default files and in the agent."""
    files = [found for name in named or DEFAULT_FILES if (found := _of_file(name, keyring)) is not None]
    place = (list(named) or list(DEFAULT_FILES))[0]
    return Identities((*files, *(() if named else of_agent())), place)


def _of_file(name: str, keyring: Keyring) -> Identity | None:
    path = Path(name).expanduser()
    if not path.is_file():
        return None
    said = _public_file(path)
    try:
        key = keyring.key_at(path)
    except paramiko.PasswordRequiredException:
        held = said is not None and said.split()[:2] in [
            key.public.split()[:2] for key in of_agent() if key.public
        ]
        return Identity(name, said, locked=not held)
    except (OSError, paramiko.SSHException, paramiko.pkey.UnknownKeyType, ValueError):
        return None
    own = f"{key.get_name()} {key.get_base64()}"
    return Identity(name, said if said is not None and said.startswith(own) else own)


def _public_file(path: Path) -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        words = Path(f"{path}.pub").read_text(encoding="utf-8").split()
        return " ".join(words) if len(words) > 1 else None
    return None


@functools.cache
def of_agent() -> tuple[Identity, ...]:
    """Return the keys that the SSH agent holds, asked for once."""
    try:
        keys = paramiko.Agent().get_keys()
    except (paramiko.SSHException, OSError):
        return ()
    found = [f"{key.get_name()} {key.get_base64()} {' '.join(key.comment.split())}".strip() for key in keys]
    # A key on a token may have to be touched, and certificates are not what authorized_keys lists.
    return tuple(
        Identity("the SSH agent", text)
        for text in sorted(found, key=lambda text: text.startswith("sk-"))
        if "-cert-" not in text.split()[0]
    )
