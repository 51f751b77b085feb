"""The user's keys on this machine: made private, never over another file, and remembered."""

from __future__ import annotations

import stat
from pathlib import Path

import asyncssh
import pytest

from orchestrator.core.keys.login import Installation
from orchestrator.errors import AuthenticationFailed, ConnectTimeout, UsageError
from orchestrator.local.own_keys import KeyRecord, make_key, read_record, remove_key, write_record
from orchestrator.operations.keys.installing import decided
from orchestrator.remote.ssh.host_keys import Keyring
from orchestrator.remote.ssh.identities import Identities, Identity, find_identities, of_agent


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    of_agent.cache_clear()
    return tmp_path


def test_a_key_is_private_and_replaces_nothing(home: Path) -> None:
    public = make_key("~/.ssh/id_ed25519")
    file = home / ".ssh" / "id_ed25519"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    loaded = asyncssh.read_private_key(str(file))
    assert loaded.export_public_key().decode().strip() == public == Path(f"{file}.pub").read_text().strip()
    with pytest.raises(UsageError, match="id_ed25519 cannot be made: File exists"):
        make_key("~/.ssh/id_ed25519")
    assert not remove_key("~/.ssh/id_ed25519", "ssh-ed25519 AAAA other") and file.exists()
    assert remove_key("~/.ssh/id_ed25519", public) and list(file.parent.iterdir()) == []


def test_the_record_lasts_until_nothing_is_left(home: Path) -> None:
    assert read_record() == KeyRecord({}, {})
    record = (
        KeyRecord({}, {}).with_made("/k", "ssh-ed25519 A c").with_installed("ssh-ed25519 A", ["u@a:22", "u@b:22"])
    )
    write_record(record.with_installed("ssh-ed25519 A", ["u@a:22"]))
    assert read_record() == record
    assert record.without_servers(["u@a:22"]).installed == {"ssh-ed25519 A": ("u@b:22",)}
    write_record(record.without_servers(["u@a:22", "u@b:22"]).without_made("/k"))
    assert not (home / ".local/state/orch/keys.json").exists()
    (home / ".local/state/orch/keys.json").write_text("[]")
    with pytest.raises(UsageError, match="is damaged"):
        read_record()


def test_the_record_knows_where_logins_between_hosts_are(home: Path) -> None:
    record = KeyRecord({}, {}).with_installed("ssh-ed25519 A", ["u@a:22"]).with_between(["u@a:22", "u@b:22"])
    write_record(record)
    assert read_record() == record and record.servers == {"u@a:22", "u@b:22"}
    assert record.without_between(["u@a:22"]).between == ("u@b:22",)
    assert record.without_servers(["u@a:22", "u@b:22"]) == KeyRecord({}, {})
    # A record of an earlier version says nothing of them.
    (home / ".local/state/orch/keys.json").write_text('{"made": {}, "installed": {}}')
    assert read_record() == KeyRecord({}, {})


def write_key(path: Path, passphrase: str | None = None) -> str:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    key = asyncssh.generate_private_key("ssh-ed25519", comment="me")
    key.write_private_key(str(path), passphrase=passphrase)
    key.write_public_key(f"{path}.pub")
    return key.export_public_key().decode().strip()


def test_which_keys_are_offered(home: Path) -> None:
    nothing = find_identities([], Keyring(home))
    assert nothing == Identities((), "~/.ssh/id_ed25519") and nothing.usable is None
    write_key(home / ".ssh" / "id_ed25519", "geheim")
    locked = find_identities([], Keyring(home))
    assert locked.usable is None and locked.locked is not None and locked.locked.source == "~/.ssh/id_ed25519"
    rsa = write_key(home / ".ssh" / "id_rsa")
    assert find_identities([], Keyring(home)).usable == Identity("~/.ssh/id_rsa", rsa)
    named = str(home / ".ssh" / "mine")
    assert find_identities([named], Keyring(home)) == Identities((), named)
    own = write_key(home / ".ssh" / "mine")
    (home / ".ssh" / "mine.pub").write_text("ssh-ed25519 AAAA of another key")
    assert find_identities([named], Keyring(home)).usable == Identity(named, " ".join(own.split()[:2]))


REFUSED = AuthenticationFailed("no", server="u@a:22", takes_passwords=True)
NO_KEY = Identities((), "~/.ssh/id_ed25519")
ONE = Identities((Identity("~/.ssh/id_rsa", "ssh-rsa A"),), "~/.ssh/id_ed25519")
LOCKED = Identities((Identity("~/.ssh/id_rsa", None, locked=True),), "~/.ssh/id_ed25519")


def test_what_isdecided_for_a_host() -> None:
    assert decided(ONE, None, absent=False) is None
    assert decided(ONE, REFUSED, absent=False) == Installation("~/.ssh/id_rsa", "ssh-rsa A", by_password=True)
    assert decided(NO_KEY, REFUSED, absent=False) == Installation("~/.ssh/id_ed25519", None, by_password=True)
    # The inventory names a key that is not there, and another key opens the host.
    assert decided(NO_KEY, None, absent=True) == Installation("~/.ssh/id_ed25519", None, by_password=False)
    assert "ssh-add ~/.ssh/id_rsa" in str(decided(LOCKED, REFUSED, absent=False))
    keys_only = AuthenticationFailed("no", server="u@a:22")
    assert decided(ONE, keys_only, absent=False) is keys_only
    gone = ConnectTimeout("gone")
    assert decided(ONE, gone, absent=False) is gone
