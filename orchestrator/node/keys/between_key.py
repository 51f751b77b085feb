"""The key with which this node logs in to the others. Its private half never leaves the node."""

from __future__ import annotations

import contextlib
import os

from ...protocol.keys import BETWEEN_KEY
from ...protocol.refusal import Refused
from ..host import atomic, bounded

# Time limit for making a key, in seconds.
LIMIT = 30.0


def public(folder: str) -> str | None:
    """Return the public half, None if there is no key. Raises Refused if only one half is there."""
    path = os.path.join(folder, BETWEEN_KEY)
    try:
        with open(path + ".pub") as file:
            said = file.read().strip()
    except FileNotFoundError:
        said = ""
    if bool(said) != os.path.exists(path):
        raise Refused("%s: one half of the key is missing; remove the other to have it made anew" % path, "keys")
    return said or None


def make(folder: str) -> str:
    """Make the key without a passphrase, and return its public half."""
    path = os.path.join(folder, BETWEEN_KEY)
    new = os.path.join(folder, atomic.partial_name())
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "orch, between nodes", "-f", new]
    try:
        bounded.run(argv, LIMIT)
        os.replace(new + ".pub", path + ".pub")
        os.replace(new, path)
    except bounded.NoAnswer as error:
        raise Refused("ssh-keygen: %s; install openssh-client or openssh-clients there" % error, "keys") from None
    finally:
        for left in (new, new + ".pub"):
            with contextlib.suppress(OSError):
                os.unlink(left)
    found = public(folder)
    assert found is not None
    return found


def remove(folder: str) -> None:
    """Remove both halves."""
    for path in (os.path.join(folder, BETWEEN_KEY), os.path.join(folder, BETWEEN_KEY + ".pub")):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
