"""Host keys: which keys the user trusts, and how unknown and changed keys are handled."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import paramiko
from paramiko.hostkeys import HostKeyEntry

from orchestrator import errors
from orchestrator.core.inventory.known_hosts import KnownHosts
from orchestrator.core.inventory.target import Settings


class Keyring:
    """The user's known_hosts files and private keys, read once for all connections."""

    def __init__(self, home: Path) -> None:
        self.file = home / ".ssh" / "known_hosts"
        self._lock = threading.Lock()
        self._identities: dict[Path, paramiko.PKey] = {}
        lines: list[str] = []
        for path in (Path("/etc/ssh/ssh_known_hosts"), self.file):
            with contextlib.suppress(OSError):
                lines += path.read_text(errors="replace").splitlines()
        self._lines = lines
        self._known = KnownHosts(lines)

    def keys_of(self, name: str) -> list[paramiko.PKey]:
        """Return the recorded keys of a host; ``name`` is spelled as in known_hosts."""
        found = []
        for key in self._known.lookup(name):
            # OpenSSH skips damaged lines; so do we.
            with contextlib.suppress(paramiko.SSHException, paramiko.hostkeys.InvalidHostKey, ValueError):
                if entry := HostKeyEntry.from_line(f"{name} {key}"):
                    found.append(entry.key)
        return found

    def revokes(self, name: str, key: paramiko.PKey) -> bool:
        """Return whether the key is revoked for the host, even if another source trusts it."""
        return f"{key.get_name()} {key.get_base64()}" in self._known.revoked(name)

    def certifies(self, name: str) -> bool:
        """Return whether known_hosts trusts certificates for the host, which orch does not check."""
        return self._known.certified(name)

    def key_at(self, path: Path) -> paramiko.PKey:
        """Return the private key in a file, read once for all hosts. Raises what paramiko raises."""
        with self._lock:
            if path not in self._identities:
                try:
                    self._identities[path] = paramiko.PKey.from_path(path)
                except TypeError as error:  # from the library below paramiko, for a key with a passphrase
                    raise paramiko.PasswordRequiredException(str(error)) from None
            return self._identities[path]

    def learn(self, name: str, key: paramiko.PKey) -> None:
        """Append a host's key to the user's known_hosts file."""
        with self._lock:
            self.file.parent.mkdir(mode=0o700, exist_ok=True)
            text = self.file.read_text(errors="replace") if self.file.exists() else ""
            line = f"{name} {key.get_name()} {key.get_base64()}"
            if line in text.splitlines():
                # Several hosts are reached through one jump host.
                return
            # An editor may have left the last line without a newline.
            start = "\n" if text and not text.endswith("\n") else ""
            with self.file.open("a") as file:
                file.write(f"{start}{line}\n")
            self._lines.append(line)
            self._known = KnownHosts(self._lines)


class HostKeyPolicy(paramiko.MissingHostKeyPolicy):
    """Policy for a host without a recorded key."""

    def __init__(self, host: str, settings: Settings, keyring: Keyring, pinned_fingerprint: str | None) -> None:
        self.host = host
        self.settings = settings
        self.keyring = keyring
        self.pinned_fingerprint = pinned_fingerprint

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        """Accept ``key`` if it is pinned or may be recorded. Raises HostKeyChanged or HostKeyUnknown otherwise."""
        seen = fingerprint(key)
        if self.keyring.revokes(hostname, key):
            raise errors.HostKeyChanged(
                f"host key of {hostname} is REVOKED in known_hosts ({key.get_name()} {seen})",
                remedy="do not log in there; ask its administrator to install a new host key",
                host=self.host,
            )
        if self.pinned_fingerprint:
            if seen != self.pinned_fingerprint:
                raise changed(self.host, seen, self.pinned_fingerprint, "host_key: in the inventory")
        elif self.settings.accepts(seen):
            self.keyring.learn(hostname, key)
        elif self.keyring.certifies(hostname):
            raise errors.HostKeyUnknown(
                f"host key of {hostname} is only vouched for by a certificate (@cert-authority): orch checks none",
                fingerprint=seen,
                remedy=f"pin it: host_key: {seen}",
                host=self.host,
            )
        else:
            raise errors.HostKeyUnknown(
                f"host key of {hostname} is not known ({key.get_name()} {seen})",
                fingerprint=seen,
                remedy="check the fingerprint, then pass --accept-new-host-keys once, or pin it with host_key:",
                host=self.host,
            )


def fingerprint(key: paramiko.PKey) -> str:
    """Return the key's fingerprint, ``SHA256:...`` as OpenSSH prints it."""
    return str(key.fingerprint)


def changed(host: str, seen: str, recorded: str, where: str) -> errors.HostKeyChanged:
    """Return the error for a host that shows the key ``seen`` where ``recorded`` is trusted."""
    return errors.HostKeyChanged(
        f"host key has CHANGED: the host shows {seen}, {where} says {recorded}",
        remedy="someone may be intercepting the connection; "
        "if the machine was reinstalled, replace the recorded key",
        host=host,
    )
