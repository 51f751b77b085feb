"""Logging in with a password through the SSH door, also behind a jump host that has another."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from orchestrator.core.inventory.hosts import Host
from orchestrator.core.inventory.target import Settings
from orchestrator.errors import AuthenticationFailed
from orchestrator.remote.ssh.authentication import Login, Password
from orchestrator.remote.ssh.connection import Connection, connections

WORDS = {"password": "sesame", "jump": "other"}


class AskingServer(asyncssh.SSHServer):
    """A server that takes one password and no keys; ``jump`` also passes connections on."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def public_key_auth_supported(self) -> bool:
        return False

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return password == WORDS[self.kind]

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return self.kind == "jump"


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def listen(kind: str) -> int:
        key = asyncssh.generate_private_key("ssh-ed25519")
        listener = await asyncssh.listen(
            "127.0.0.1", 0, server_factory=lambda: AskingServer(kind), server_host_keys=[key]
        )
        return int(listener.get_port())

    yield {kind: asyncio.run_coroutine_threadsafe(listen(kind), loop).result(10) for kind in WORDS}
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return tmp_path


def link_to(port: int, **more: object) -> Connection:
    settings = Settings(5.0, accept_new_host_keys=True)
    (link,) = connections([Host("node1", "127.0.0.1", user="u", port=port, **more)], settings)  # type: ignore[arg-type]
    return link


def server(port: int) -> str:
    return f"u@127.0.0.1:{port}"


def test_a_password_opens_what_refuses_keys(ports: dict[str, int]) -> None:
    link = link_to(ports["password"])
    with pytest.raises(AuthenticationFailed) as refused:
        link.open()
    assert refused.value.server == server(ports["password"]) and refused.value.takes_passwords
    assert (refused.value.remedy or "").endswith("orch keys")
    with pytest.raises(AuthenticationFailed, match="refused the password") as wrong:
        link.open(Login({server(ports["password"]): Password("wrong word")}))
    assert "wrong word" not in str(wrong.value)
    link.open(Login({server(ports["password"]): Password(WORDS["password"])}))
    assert link.alive and link.server_key().startswith("ssh-ed25519 ")
    link.close()


def test_a_jump_host_has_a_password_of_its_own(ports: dict[str, int]) -> None:
    link = link_to(ports["password"], jump=(f"u@127.0.0.1:{ports['jump']}",))
    with pytest.raises(AuthenticationFailed, match="the jump host u@127") as first:
        link.open()
    assert first.value.server == server(ports["jump"]) and first.value.takes_passwords
    jump = {server(ports["jump"]): Password(WORDS["jump"])}
    with pytest.raises(AuthenticationFailed) as second:
        link.open(Login(jump))
    assert second.value.server == server(ports["password"]) and "jump host" not in str(second.value)
    link.open(Login({**jump, server(ports["password"]): Password(WORDS["password"])}))
    assert link.alive
    link.close()


def test_a_key_with_a_passphrase_and_no_agent_is_named(ports: dict[str, int], home: Path) -> None:
    key = home / "locked"
    asyncssh.generate_private_key("ssh-ed25519").write_private_key(str(key), passphrase="geheim")
    with pytest.raises(AuthenticationFailed, match="has a passphrase, and no SSH agent holds it") as refused:
        link_to(ports["password"], identity_file=str(key)).open()
    assert f"ssh-add {key}" in (refused.value.remedy or "")
