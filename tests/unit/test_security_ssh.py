"""Host keys: every machine on the way is verified, with the files that the user's own ssh would read."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from orchestrator.core.inventory.hosts import Host
from orchestrator.core.inventory.known_hosts import KnownHosts
from orchestrator.core.inventory.parsing import parse_inventory
from orchestrator.core.inventory.target import Settings
from orchestrator.errors import HostKeyChanged, HostKeyUnknown, OrchError, UsageError
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.mending import mend
from orchestrator.remote.ssh.connection import Connection, connections
from orchestrator.ui.display import Display

NAMES = ("outer", "inner", "target")


class Server:
    """An SSH server that answers every command with its name, passes connections on, and notes what it saw."""

    def __init__(self, name: str, client: asyncssh.SSHKey) -> None:
        self.name = name
        self.client = client
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        self.port = 0
        self.logins = 0
        self.forwarded: list[int] = []

    async def listen(self) -> None:
        """Listen, after a restart on the same port again."""
        seen = self

        class RecordingServer(asyncssh.SSHServer):
            def begin_auth(self, username: str) -> bool:
                seen.logins += 1
                return True

            def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
                seen.forwarded.append(dest_port)
                return True

        async def answer(process: asyncssh.SSHServerProcess[str]) -> None:
            process.stdout.write(self.name)
            process.exit(0)

        self.listener = await asyncssh.listen(
            "127.0.0.1",
            self.port,
            server_factory=RecordingServer,
            server_host_keys=[self.key],
            authorized_client_keys=asyncssh.import_authorized_keys(self.client.export_public_key().decode()),
            process_factory=answer,
        )
        self.port = self.listener.get_port()

    async def replaced(self) -> None:
        """Answer at the same port with another key, as an impostor would."""
        self.listener.close()
        await self.listener.wait_closed()
        self.key = asyncssh.generate_private_key("ssh-ed25519")
        await self.listen()

    def line(self, marker: str = "", name: str = "") -> str:
        """Return the server's line for known_hosts."""
        key = " ".join(self.key.export_public_key().decode().split()[:2])
        return f"{marker}{name or f'[127.0.0.1]:{self.port}'} {key}\n"


class Network:
    """Three servers, and the home folder of the user who connects to them."""

    def __init__(self, home: Path, loop: asyncio.AbstractEventLoop, servers: dict[str, Server]) -> None:
        self.home = home
        self.loop = loop
        self.servers = servers
        self.ssh = home / ".ssh"
        self.ssh.mkdir(mode=0o700)
        self.client = next(iter(servers.values())).client
        self.client.write_private_key(str(home / "key"))
        for server in servers.values():
            server.logins, server.forwarded = 0, []

    def __getitem__(self, name: str) -> Server:
        return self.servers[name]

    def config(self, more: str = "", **settings: str) -> None:
        """Write ``~/.ssh/config`` with all three servers by name, and further settings of each."""
        (self.ssh / "config").write_text(
            more + "".join(self.block(name, settings.get(name, "")) for name in NAMES)
        )

    def block(self, name: str, more: str = "") -> str:
        return f"Host {name}\n HostName 127.0.0.1\n Port {self[name].port}\n User u\n {more}\n"

    def known(self, *lines: str) -> None:
        (self.ssh / "known_hosts").write_text("".join(lines))

    def everybody(self, *but: str) -> list[str]:
        return [server.line() for name, server in self.servers.items() if name not in but]

    def host(self, **more: object) -> Host:
        keys: dict[str, object] = {"address": "target", "identity_file": str(self.home / "key"), **more}
        return Host("node1", **keys)  # type: ignore[arg-type]

    def link(self, settings: Settings | None = None, **more: object) -> Connection:
        (link,) = connections([self.host(**more)], settings or Settings(5.0))
        return link

    def answer(self, settings: Settings | None = None, **more: object) -> str:
        """Return the name of the server that answers a command on the host."""
        link = self.link(settings, **more)
        try:
            link.open()
            return link.command("hi").output()[0].decode()
        finally:
            link.close()

    def replaced(self, name: str) -> None:
        asyncio.run_coroutine_threadsafe(self[name].replaced(), self.loop).result(10)


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[asyncio.AbstractEventLoop, dict[str, Server]]]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    client = asyncssh.generate_private_key("ssh-ed25519")
    servers = {name: Server(name, client) for name in NAMES}
    for server in servers.values():
        asyncio.run_coroutine_threadsafe(server.listen(), loop).result(10)
    yield loop, servers
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.fixture
def network(
    serving: tuple[asyncio.AbstractEventLoop, dict[str, Server]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Network:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return Network(tmp_path, *serving)


@pytest.mark.parametrize("way", ["jump", "ProxyJump", "chain"])
def test_the_outermost_of_a_chain_is_verified_before_any_login(network: Network, way: str) -> None:
    """The hop has a ProxyJump of its own, where an impostor would see the login and all that follows."""
    config = {"inner": "ProxyJump outer"}
    jump = ("inner",) if way == "jump" else ()
    if way == "ProxyJump":
        config["target"] = "ProxyJump inner"
    elif way == "chain":
        config = {"target": "ProxyJump outer,inner"}
    network.config(**config)
    network.known(*network.everybody("outer"))
    with pytest.raises(HostKeyUnknown, match=rf"\[127.0.0.1\]:{network['outer'].port} is not known"):
        network.answer(jump=jump)
    network.known(*network.everybody("outer"), network["target"].line(name=f"[127.0.0.1]:{network['outer'].port}"))
    with pytest.raises(HostKeyChanged):
        network.answer(jump=jump)
    assert network["outer"].logins == 0
    network.known(*network.everybody())
    assert network.answer(jump=jump) == "target"
    # The hops are taken in ssh's order.
    assert network["outer"].forwarded == [network["inner"].port]
    assert network["inner"].forwarded == [network["target"].port]


def test_a_proxy_jump_may_be_none_or_round(network: Network) -> None:
    network.config(
        "Host target\n ProxyJump none\n",
        target="ProxyJump outer",
        outer="ProxyJump inner",
        inner="ProxyJump outer",
    )
    network.known(*network.everybody())
    assert network.answer() == "target"
    assert network["outer"].logins == 0
    with pytest.raises(UsageError, match="leads back to the same host"):
        network.answer(jump=("outer",))
    network.config("Host *\n ProxyJump outer\n")
    assert network.answer() == "target"
    assert network["outer"].forwarded == [network["target"].port]


@pytest.mark.parametrize("accept", [False, True])
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("name", ["", "*"])
def test_a_revoked_key_is_never_believed(network: Network, accept: bool, listed: bool, name: str) -> None:
    target = network["target"]
    network.config()
    network.known(*([target.line()] if listed else []), target.line("@revoked ", name))
    before = (network.ssh / "known_hosts").read_text()
    for host_key in (None, target.line().split(" ", 1)[1].strip(), target.key.get_fingerprint()):
        with pytest.raises(HostKeyChanged, match="is REVOKED in known_hosts"):
            network.answer(Settings(5.0, accept_new_host_keys=accept), host_key=host_key)
    assert target.logins == 0
    assert (network.ssh / "known_hosts").read_text() == before
    # Another server's revoked key does not count for this one.
    network.known(target.line(), network["inner"].line("@revoked\t", "*"))
    assert network.answer() == "target"


def test_markers_and_blanks_of_known_hosts() -> None:
    known = KnownHosts(
        ["@revoked\ta,b\tssh-rsa  AAA x", "a  ssh-rsa AAA", "b ssh-rsa BBB", "@other a ssh-rsa CCC", "@revoked"]
    )
    assert known.lookup("a") == ()
    assert known.lookup("b") == ("ssh-rsa BBB",)
    assert known.revoked("b") == ("ssh-rsa AAA",)
    assert not known.certified("a")


def test_doctor_records_only_the_key_that_it_showed(network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    """An impostor takes the host's place between the question and the answer."""
    network.config()
    network.known()
    link = network.link()
    with pytest.raises(HostKeyUnknown) as caught:
        link.open()
    errors: list[OrchError] = [caught.value]
    opened = OpenCluster(parse_inventory("hosts: [node1]"), (link.host,), (link,), 1)

    def agreed() -> int:
        return mend(opened, network.home / "hosts.yaml", (), errors, lambda question: True, Display())

    network.replaced("target")
    assert agreed() == 0
    assert (network.ssh / "known_hosts").read_text() == ""
    assert "is not known (ssh-ed25519 " in capsys.readouterr().err
    with pytest.raises(HostKeyUnknown) as caught:
        link.open()
    errors[:] = [caught.value]
    assert agreed() == 1
    assert (network.ssh / "known_hosts").read_text() == network["target"].line()
