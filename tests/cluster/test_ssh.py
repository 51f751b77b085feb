"""Connecting to real sshds: what a user sees when it fails, and that no foreign exception gets out."""

from __future__ import annotations

import inspect
import subprocess
import time
from pathlib import Path

import paramiko
import paramiko.ssh_exception
import pytest

from orchestrator import errors
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.inventory.known_hosts import KnownHosts
from orchestrator.core.inventory.target import Settings
from orchestrator.remote.ssh.connection import connections
from orchestrator.remote.ssh.translation import translate
from tests.conftest import Orch
from tests.namespaces import Cluster


def hosts_file(cluster: Cluster, **bad: str) -> str:
    """Return an inventory of node2, node3 and, in the place of node1, a host ``bad`` with these keys."""
    body = ", ".join(f"{key}: {value}" for key, value in {"address": cluster.hosts[0].address, **bad}.items())
    return (
        f"defaults: {{user: root, identity_file: {cluster.identity_file}}}\n"
        f"hosts:\n  bad: {{{body}}}\n"
        f"  node2: {{address: {cluster.hosts[1].address}}}\n  node3: {{address: {cluster.hosts[2].address}}}\n"
    )


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("bad", "expected"),
    [
        ({"port": "2222"}, "refused the connection: nothing listens there → start sshd there, or set port:"),
        ({"user": "nobody"}, "nobody@{address}:22 refused the login"),
        ({"identity_file": "{wrong}"}, "refused the login (offered {wrong}"),
        ({"identity_file": "/no/such/key"}, "identity_file /no/such/key: No such file or directory"),
        ({"address": "no-such-name.invalid"}, "the name 'no-such-name.invalid' cannot be resolved"),
        ({"host_key": "SHA256:" + "A" * 43}, "host key has CHANGED"),
    ],
)
def test_a_bad_host_is_one_line_and_the_others_answer(
    orch: Orch, cluster: Cluster, bad: dict[str, str], expected: str, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", wrong], check=True)
    names = {"wrong": str(wrong), "address": cluster.hosts[0].address}
    given = {key: value.format(**names) for key, value in bad.items()}
    (orch.folder / "hosts.yaml").write_text(hosts_file(cluster, **given))
    result = orch("exec", "--", "echo", "hi")
    assert result.returncode == 4
    assert result.stdout == "hi\n"
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert lines[0].startswith("error: bad: ")
    assert expected.format(**names) in lines[0]
    assert "Traceback" not in result.stderr
    assert "node[2-3]" in result.stderr


@pytest.mark.cluster
def test_a_black_hole_is_named_within_the_timeout(orch: Orch, cluster: Cluster) -> None:
    cluster.hosts[0].cut()
    try:
        (orch.folder / "hosts.yaml").write_text(hosts_file(cluster))
        began = time.monotonic()
        result = orch("exec", "--connect-timeout", "2", "--", "echo", "hi")
        assert time.monotonic() - began < 4
    finally:
        cluster.hosts[0].restore()
    assert result.returncode == 4
    assert result.stdout == "hi\n"
    assert "did not answer within 2 s" in result.stderr or "there is no route" in result.stderr


@pytest.mark.cluster
def test_host_keys_are_verified(orch: Orch, cluster: Cluster, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    known = home / ".ssh" / "known_hosts"
    unknown = orch("exec", "--", "echo", "hi", HOME=str(home))
    assert unknown.returncode == 4
    assert unknown.stderr.count("is not known (ssh-ed25519 SHA256:") == 3
    accepted = orch("exec", "--accept-new-host-keys", "--", "echo", "hi", HOME=str(home))
    assert accepted.stdout == "hi\n", accepted.stderr
    assert len(known.read_text().splitlines()) == 3
    assert orch("exec", "--", "echo", "hi", HOME=str(home)).returncode == 0
    keys = [line.split() for line in known.read_text().splitlines()]
    swapped = [[keys[0][0], *keys[1][1:]], [keys[1][0], *keys[0][1:]], keys[2]]
    known.write_text("".join(" ".join(line) + "\n" for line in swapped))
    changed = orch("exec", "--accept-new-host-keys", "--", "echo", "hi", HOME=str(home))
    assert changed.returncode == 4
    assert changed.stderr.count("host key has CHANGED") == 2
    assert changed.stdout == "hi\n"


def foreign_exceptions() -> list[Exception]:
    """Return one exception of each class of paramiko, and those of sockets.

    Fabric's and invoke's exceptions belong to their runners and groups, which orch does not use.
    """
    key = paramiko.RSAKey.generate(1024)
    known = {
        paramiko.BadHostKeyException: paramiko.BadHostKeyException("h", key, key),
        paramiko.ChannelException: paramiko.ChannelException(2, "Connect failed"),
        paramiko.ProxyCommandFailure: paramiko.ProxyCommandFailure("nc", "gone"),
        paramiko.ssh_exception.PartialAuthentication: paramiko.ssh_exception.PartialAuthentication(["password"]),
        paramiko.BadAuthenticationType: paramiko.BadAuthenticationType("no", ["publickey"]),
        paramiko.ssh_exception.NoValidConnectionsError: paramiko.ssh_exception.NoValidConnectionsError(
            {("10.0.0.1", 22): ConnectionRefusedError(111, "refused")}
        ),
    }
    found: list[Exception] = [
        OSError("closed"),
        EOFError(),
        TimeoutError(),
        ConnectionResetError(104, "reset"),
        UnicodeError("label too long"),
    ]
    for _, kind in inspect.getmembers(paramiko.ssh_exception, inspect.isclass):
        if issubclass(kind, Exception) and kind.__module__ == paramiko.ssh_exception.__name__:
            found.append(known.get(kind) or kind("what it says"))
    return found


@pytest.mark.parametrize("error", foreign_exceptions(), ids=lambda error: type(error).__name__)
def test_every_foreign_exception_becomes_ours(error: Exception) -> None:
    link = connections([Host("node1", "10.0.0.1")], Settings())[0]
    for connecting in (None, link):
        ours = translate(error, "node1", connecting)
        assert isinstance(ours, errors.OrchError)
        assert "\n" not in str(ours)
        assert ours.host == "node1"


def test_known_hosts_forms() -> None:
    hashed = "|1|F1E1KeoE/eEWhi10WpGv4OdiO6Y=|3988QV0VE8wmZL7suNrYQLITLCg= ssh-rsa HASHED"
    lines = [
        hashed,
        "*.lab,!bad.lab ssh-ed25519 GLOB",
        "[h]:2222 ssh-ed25519 PORT",
        "@revoked h ssh-rsa NO",
        "# x",
        "",
    ]
    known = KnownHosts(lines)
    assert known.lookup("192.168.1.61") == ("ssh-rsa HASHED",)
    assert known.lookup("a.lab") == ("ssh-ed25519 GLOB",)
    assert known.lookup("bad.lab") == ()
    assert known.lookup("[h]:2222") == ("ssh-ed25519 PORT",)
    assert known.lookup("h") == ()


@pytest.mark.cluster
def test_jump_hosts_from_the_inventory_and_from_ssh_config(orch: Orch, cluster: Cluster) -> None:
    first, second, third = (host.address for host in cluster.hosts)
    (orch.folder / "hosts.yaml").write_text(
        f"defaults: {{user: root, identity_file: {cluster.identity_file}}}\n"
        f"hosts: {{one: {{address: {first}, jump: 'root@{second}'}}, two: {{address: {third}, jump: ['root@{second}', 'root@{first}']}}}}\n"
    )
    result = orch("exec", "--", "sh", "-c", "echo ${SSH_CONNECTION%% *}")
    assert result.returncode == 0, result.stderr
    assert sorted(result.stdout.split()) == sorted([second, first])
    config = Path(orch.env["HOME"]) / ".ssh" / "config"
    before = config.read_text() if config.exists() else None
    config.write_text(
        f"Host lab\n  HostName {first}\n  User root\n  ProxyJump root@{second}\n  IdentityFile {cluster.identity_file}\n"
    )
    try:
        (orch.folder / "hosts.yaml").write_text("hosts: [lab]\n")
        result = orch("exec", "--", "sh", "-c", "echo ${SSH_CONNECTION%% *}")
    finally:
        config.unlink() if before is None else config.write_text(before)
    assert result.stdout == f"{second}\n", result.stderr
