"""The files of ~/.ssh on a node: what is added, that nothing is added twice, and that undo restores every byte."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.node.keys.arrange import arranged
from orchestrator.node.keys.entries import edited
from orchestrator.protocol.keys import AUTHORIZED_KEYS, BETWEEN, BETWEEN_KEY, ArrangeKeys, FileChange, KeysArranged
from orchestrator.protocol.refusal import Refused

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEIbi2s4fK1RfKNUZoF8KGIprj3YzoOSsBO69TEOlRuc me@here"
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB07F3ZYAUx0vU1y0Up5h7nLvCZQdKLf6zz1dNV3kzQt you@there"
LOGIN = {"login SHA256:one": {AUTHORIZED_KEYS: (KEY,)}}
NODES = {
    f"between lab/{name}": {
        AUTHORIZED_KEYS: (f'from="10.0.0.{name[-1]}" {OTHER}{name}',),
        "known_hosts": (f"10.0.0.{name[-1]} ssh-ed25519 AAAA{name}",),
        "config": (f"# {name}\nMatch host {name}\n    IdentityFile ~/.ssh/x\nMatch all\n# end of {name}",),
    }
    for name in ("node1", "node2")
}


def ask(home: Path, entries: dict[str, dict[str, tuple[str, ...]]], **more: object) -> KeysArranged:
    return arranged(ArrangeKeys(**{"entries": entries, "write": True, **more}), str(home))  # type: ignore[arg-type]


def undo(home: Path, **more: object) -> KeysArranged:
    return ask(home, {purpose: {} for purpose in LOGIN}, drop=BETWEEN, key="remove", **more)


def picture(home: Path) -> dict[str, tuple[int, bytes | None]]:
    return {
        str(path.relative_to(home)): (
            stat.S_IMODE(path.stat().st_mode),
            path.read_bytes() if path.is_file() else None,
        )
        for path in sorted(home.rglob("*"))
        if path.name != ".orch" and not path.name.startswith("keys.")
    }


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / ".orch").mkdir()
    return tmp_path


def folder(home: Path, **files: str) -> Path:
    ssh = home / ".ssh"
    ssh.mkdir(mode=0o700)
    for name, text in files.items():
        (ssh / name).write_text(text)
        (ssh / name).chmod(0o600)
    return ssh


def test_a_home_without_ssh_files(home: Path) -> None:
    before = picture(home)
    answer = ask(home, LOGIN)
    assert answer.files == {AUTHORIZED_KEYS: FileChange(added=1, made=True)}
    assert picture(home) == {".ssh": (0o700, None), ".ssh/authorized_keys": (0o600, f"{KEY}\n".encode())}
    assert ask(home, LOGIN).files == {}
    assert undo(home).files == {AUTHORIZED_KEYS: FileChange(removed=1, deleted=True)}
    assert picture(home) == before
    assert undo(home).files == {}
    assert not (home / ".orch" / "keys.json").exists()


def test_a_missing_newline_and_modes_that_sshd_refuses(home: Path) -> None:
    ssh = folder(home, authorized_keys=OTHER)
    ssh.chmod(0o775)
    (ssh / "authorized_keys").chmod(0o664)
    before = picture(home)
    assert ask(home, LOGIN).files[AUTHORIZED_KEYS] == FileChange(added=1, mode=0o644)
    assert (ssh / "authorized_keys").read_text() == f"{OTHER}\n{KEY}\n"
    assert stat.S_IMODE(ssh.stat().st_mode) == 0o755
    undo(home)
    assert picture(home) == before


def test_a_key_that_is_there_is_left_alone_and_one_with_options_is_not_enough(home: Path) -> None:
    ssh = folder(home, authorized_keys=f"{KEY.split(' me')[0]} old comment\n")
    before = picture(home)
    assert ask(home, LOGIN).files == {} and picture(home) == before
    (ssh / "authorized_keys").write_text(f'from="10.9.9.9" {KEY}\n')
    assert ask(home, LOGIN).files[AUTHORIZED_KEYS].added == 1


def test_a_key_that_is_there_in_a_file_that_sshd_refuses(home: Path) -> None:
    ssh = folder(home, authorized_keys=f"{KEY}\n")
    (ssh / "authorized_keys").chmod(0o666)
    before = picture(home)
    assert ask(home, LOGIN).files == {AUTHORIZED_KEYS: FileChange(mode=0o644)}
    assert ask(home, LOGIN).files == {}
    undo(home)
    assert picture(home) == before


def test_what_others_changed_meanwhile_stays(home: Path) -> None:
    ssh = folder(home, authorized_keys=f"{OTHER}\n")
    ask(home, {**LOGIN, **NODES})
    file = ssh / "authorized_keys"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(["# mine", *lines[:2], *lines[3:], "ssh-rsa BBBB new"]) + "\n")
    answer = undo(home)
    assert answer.files[AUTHORIZED_KEYS] == FileChange(removed=2, absent=1, others=True)
    assert file.read_text() == f"# mine\n{OTHER}\nssh-rsa BBBB new\n"
    assert not (ssh / "config").exists()


def test_entries_of_a_purpose_are_replaced_and_others_stay(home: Path) -> None:
    ssh = folder(home)
    ask(home, LOGIN)
    alone = picture(home)
    ask(home, NODES)
    moved = {"between lab/node1": {AUTHORIZED_KEYS: (f'from="10.7.7.7" {OTHER}node1',)}}
    assert ask(home, moved).files[AUTHORIZED_KEYS] == FileChange(added=1, removed=1)
    text = (ssh / "authorized_keys").read_text()
    assert "10.7.7.7" in text and "10.0.0.1" not in text and "10.0.0.2" in text and KEY in text
    assert "node1" not in (ssh / "config").read_text()
    ask(home, {}, drop=BETWEEN)
    assert picture(home) == alone


def test_looking_changes_nothing(home: Path) -> None:
    before = picture(home)
    answer = ask(home, {**LOGIN, **NODES}, key="make", write=False)
    assert answer.files[AUTHORIZED_KEYS].added == 3 and answer.key_made and answer.public is None
    assert picture(home) == before and list((home / ".orch").iterdir()) == []


def test_a_link_is_followed_and_stays_a_link(home: Path) -> None:
    ssh = folder(home)
    (home / "dotfiles").mkdir()
    real = home / "dotfiles" / "keys"
    real.write_text(f"{OTHER}\n")
    (ssh / "authorized_keys").symlink_to(real)
    ask(home, LOGIN)
    assert (ssh / "authorized_keys").is_symlink() and real.read_text() == f"{OTHER}\n{KEY}\n"
    undo(home)
    assert (ssh / "authorized_keys").is_symlink() and real.read_text() == f"{OTHER}\n"


def test_what_is_no_file_and_a_damaged_record_are_refused(home: Path) -> None:
    ssh = folder(home)
    (ssh / "authorized_keys").mkdir()
    with pytest.raises(Refused, match="authorized_keys is not a file"):
        ask(home, LOGIN)
    (ssh / "authorized_keys").rmdir()
    (home / ".orch" / "keys.json").write_text("{")
    with pytest.raises(Refused, match="damaged"):
        ask(home, LOGIN)


def test_a_home_that_others_may_write_to_is_doubted(home: Path) -> None:
    home.chmod(0o777)
    (doubt,) = ask(home, LOGIN).doubts
    assert "chmod go-w" in doubt


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs ssh-keygen")
def test_the_key_between_nodes_is_made_once_and_removed_if_orch_made_it(home: Path) -> None:
    before = picture(home)
    made = ask(home, {}, key="make")
    key = home / ".ssh" / BETWEEN_KEY
    assert made.key_made and made.public == key.with_suffix(".pub").read_text().strip()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    again = ask(home, {}, key="make")
    assert not again.key_made and again.public == made.public
    assert undo(home).key_removed
    assert picture(home) == before
    folder(home, **{BETWEEN_KEY: "mine", f"{BETWEEN_KEY}.pub": f"{OTHER}"})
    ask(home, NODES, key="make")
    assert not undo(home).key_removed and key.read_text() == "mine"


LINE = st.sampled_from([KEY, OTHER, "# comment", "", " ", f'from="10.0.0.1" {OTHER}node1', "\r", "é"])
TEXTS = st.none() | st.builds(
    lambda lines, end: ("\n".join(lines) + end).encode(),
    st.lists(LINE, max_size=5),
    st.sampled_from(["", "\n", "\n\n"]),
)
WANTED = st.dictionaries(
    st.sampled_from(["login a", "login b", "between c"]),
    st.lists(st.sampled_from([KEY, OTHER, "two\nlines", "x"]), max_size=3, unique=True).map(tuple),
)


@settings(max_examples=100, deadline=None)
@given(text=TEXTS, mode=st.sampled_from([0o600, 0o664, 0o644]), steps=st.lists(WANTED, max_size=4))
def test_any_history_is_stable_and_restores_every_byte(
    text: bytes | None, mode: int, steps: list[dict[str, tuple[str, ...]]]
) -> None:
    first = found = None if text is None else (text, mode)
    record = None
    for wanted in steps:
        edit = edited(AUTHORIZED_KEYS, found, record, wanted, None)
        again = edited(AUTHORIZED_KEYS, edit.found, edit.record, wanted, None)
        assert (again.found, again.record, again.change) == (edit.found, edit.record, FileChange())
        found, record = edit.found, edit.record
    purposes = {purpose: () for wanted in steps for purpose in wanted}
    last = edited(AUTHORIZED_KEYS, found, record, purposes, None)
    assert last.found == first and last.record is None and not last.change.others
