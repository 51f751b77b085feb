"""The user's SSH keys on this machine: make one, and remember which ones orch made and where it installed them."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from getpass import getuser
from pathlib import Path

from orchestrator.errors import UsageError


def make_key(name: str) -> str:
    """Make an ed25519 key without a passphrase in a file, and return the public half. Raises UsageError."""
    import asyncssh  # takes long to import

    path = Path(name).expanduser()
    key = asyncssh.generate_private_key("ssh-ed25519", comment=_comment())
    public = key.export_public_key("openssh").decode("ascii").strip()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Never written through a link or over another file.
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            file.write(key.export_private_key("openssh"))
        _public(path).write_text(public + "\n", encoding="ascii")
    except OSError as error:
        raise UsageError(f"{name} cannot be made: {error.strerror}") from None
    return public


def remove_key(name: str, public: str) -> bool:
    """Remove a key that ``make_key`` made; return False, and keep it, if the file holds another key now."""
    path = Path(name).expanduser()
    try:
        if _public(path).read_text(encoding="utf-8").split()[:2] != public.split()[:2]:
            return False
        path.unlink(missing_ok=True)
        _public(path).unlink()
    except (OSError, UnicodeDecodeError):
        return False
    return True


def _public(path: Path) -> Path:
    return path.with_name(f"{path.name}.pub")


def _comment() -> str:
    return re.sub(r"[^A-Za-z0-9@._-]", "-", f"{getuser()}@{platform.node()}")


@dataclass(frozen=True)
class KeyRecord:
    """What ``orch keys`` did from this machine.

    ``made``: the public halves of keys, by file. ``installed``: the servers, ``user@host:port``, on which a key
    was installed, by public key without comment. ``between``: the servers whose files were changed for logins
    between hosts.
    """

    made: dict[str, str]
    installed: dict[str, tuple[str, ...]]
    between: tuple[str, ...] = ()

    @property
    def servers(self) -> set[str]:
        """The servers that the record has anything about."""
        return {*self.between, *(server for there in self.installed.values() for server in there)}

    def with_made(self, path: str, public: str) -> KeyRecord:
        """Return the record with one more key."""
        return replace(self, made={**self.made, path: public})

    def with_installed(self, key: str, servers: Iterable[str]) -> KeyRecord:
        """Return the record with a key on more servers."""
        known = tuple(dict.fromkeys([*self.installed.get(key, ()), *servers]))
        return replace(self, installed={**self.installed, key: known} if known else self.installed)

    def with_between(self, servers: Iterable[str]) -> KeyRecord:
        """Return the record with more servers whose files have logins between hosts."""
        return replace(self, between=tuple(dict.fromkeys([*self.between, *servers])))

    def without_servers(self, servers: Iterable[str]) -> KeyRecord:
        """Return the record with no key on these servers, and without logins between them."""
        gone = set(servers)
        left = {key: tuple(each for each in there if each not in gone) for key, there in self.installed.items()}
        record = self.without_between(gone)
        return replace(record, installed={key: there for key, there in left.items() if there})

    def without_between(self, servers: Iterable[str]) -> KeyRecord:
        """Return the record without logins between these servers."""
        gone = set(servers)
        return replace(self, between=tuple(each for each in self.between if each not in gone))

    def without_made(self, path: str) -> KeyRecord:
        """Return the record without a key."""
        return replace(self, made={name: public for name, public in self.made.items() if name != path})


def read_record() -> KeyRecord:
    """Return the record; an empty one if there is none. Raises UsageError if it is damaged."""
    path = _record_file()
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        installed = {str(key): tuple(map(str, there)) for key, there in whole["installed"].items()}
        made = {str(name): str(public) for name, public in whole["made"].items()}
        return KeyRecord(made, installed, tuple(map(str, whole.get("between", ()))))
    except FileNotFoundError:
        return KeyRecord({}, {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path} is damaged", remedy="remove it; orch keys --undo then knows no keys") from None


def write_record(record: KeyRecord) -> None:
    """Replace the record; remove its file if nothing is left to remember. Raises UsageError."""
    path = _record_file()
    try:
        if record == KeyRecord({}, {}):
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}-{os.getpid()}")
        new.write_text(json.dumps(asdict(record), indent=1) + "\n")
        new.replace(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from None


def _record_file() -> Path:
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return state / "orch" / "keys.json"
