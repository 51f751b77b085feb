"""``orch keys`` says that nothing was changed, and does not connect where its records have the answer."""

from __future__ import annotations

import json
from getpass import getuser
from pathlib import Path
from typing import Any

import click
import pytest

from orchestrator.core.keys.login import Installation
from orchestrator.errors import AuthenticationFailed, Interrupted, OrchError, UsageError
from orchestrator.operations.keys import installing
from orchestrator.operations.keys.installing import Logins, install
from orchestrator.operations.keys.options import Asking, KeysOptions, nothing_changed
from orchestrator.ui.display import Display
from tests.conftest import Orch

# Nothing listens on this port, so a connection is refused at once.
HOSTS = "hosts: {n1: {address: 127.0.0.2, port: 1}, n2: {address: 127.0.0.1, port: 1}}\n"


def refuse(question: str) -> bool:
    return False


def leave(question: str) -> Any:
    raise click.Abort


def press(question: str) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("agree", "password", "error", "message"),
    [
        (refuse, leave, UsageError, "nothing was changed"),
        (leave, leave, Interrupted, "interrupted: nothing was changed on the hosts"),
        (press, leave, Interrupted, "interrupted: nothing was changed on the hosts"),
        (lambda _: True, leave, Interrupted, "interrupted: nothing was changed on the hosts"),
    ],
)
def test_a_refusal_and_an_abort_say_that_nothing_was_changed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    agree: Any,
    password: Any,
    error: type[OrchError],
    message: str,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))

    class Link:
        class host:
            name = "n1"

        where = "u@n1:22"

    found = Logins({}, {"n1": Link()})  # type: ignore[dict-item]
    found.installations["n1"] = Installation("~/.ssh/id_ed25519", None, by_password=True)
    found.refused["n1"] = AuthenticationFailed("no", server="u@n1:22", takes_passwords=True)
    monkeypatch.setattr(installing, "survey_logins", lambda *_: found)

    class Opened:
        fanout = 4

    options = KeysOptions(Asking(agree, None, password))
    with pytest.raises(error) as caught:
        install(Opened(), options, Display())  # type: ignore[arg-type]
    assert str(caught.value) == message
    assert not (tmp_path / ".ssh").exists()


def test_other_errors_pass_unchanged() -> None:
    with pytest.raises(UsageError, match="no terminal"), nothing_changed():
        raise UsageError("no terminal")


def test_a_dry_undo_without_a_record_connects_to_no_host(local_orch: Orch) -> None:
    (local_orch.folder / "hosts.yaml").write_text(HOSTS)
    done = local_orch("keys", "--undo", "--dry-run")
    assert (done.returncode, done.stdout) == (0, "n[1-2]  nothing to undo, as far as this machine has recorded\n")
    assert done.stderr == "not asked: n[1-2]; without --dry-run, orch keys --undo looks there, too\n"
    # What is recorded for one host is looked up there, and only there.
    record = local_orch.folder / ".local" / "state" / "orch" / "keys.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"made": {}, "installed": {"ssh-ed25519 A": [f"{getuser()}@127.0.0.2:1"]}}))
    done = local_orch("keys", "--undo", "--dry-run")
    assert done.stdout == "n2  nothing to undo, as far as this machine has recorded\n" and done.returncode == 4
    assert "connecting, to see what is left of the changes recorded for n1\n" in done.stderr
    assert "127.0.0.2:1 refused the connection" in done.stderr and "127.0.0.1:1" not in done.stderr


def test_an_undo_that_connects_says_why(local_orch: Orch) -> None:
    (local_orch.folder / "hosts.yaml").write_text("hosts: {n1: {address: 127.0.0.1, port: 1}}\n")
    done = local_orch("keys", "--undo", "--yes")
    assert done.returncode == 4
    assert "connecting: this machine has no record of changes there, but the hosts may have one\n" in done.stderr


def test_a_recorded_jump_host_is_looked_up(local_orch: Orch) -> None:
    hosts = (
        "hosts: {n1: {address: 127.0.0.2, port: 1, jump: root@127.0.0.3:1}, n2: {address: 127.0.0.4, port: 1}}\n"
    )
    (local_orch.folder / "hosts.yaml").write_text(hosts)
    record = local_orch.folder / ".local" / "state" / "orch" / "keys.json"
    record.parent.mkdir(parents=True)
    record.write_text(json.dumps({"made": {}, "installed": {"ssh-ed25519 A": ["root@127.0.0.3:1"]}}))
    done = local_orch("keys", "--undo", "--dry-run")
    assert done.returncode == 4 and "recorded for n1\n" in done.stderr and "not asked: n2;" in done.stderr
