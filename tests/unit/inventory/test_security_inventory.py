"""Hosts files and nodes are not trusted: the limits of what orch takes from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from docs.examples import healthy
from orchestrator.commands.sync import sync
from orchestrator.core.checks.catalogue import check
from orchestrator.core.checks.facts import Address
from orchestrator.core.inventory.edit import set_host_value
from orchestrator.core.inventory.parsing import parse_inventory
from orchestrator.core.inventory.target import Target
from orchestrator.errors import InventoryError, UsageError
from orchestrator.operations.cluster import OpenCluster
from orchestrator.operations.delivery.syncing import SyncOptions
from orchestrator.operations.mending import mend
from orchestrator.ui.display import Display

# Nothing listens on this port of this machine.
NOBODY = "hosts: {a: {address: 127.0.0.1, port: 1}}\n"


def refused(body: str) -> str:
    """Return the problem that is reported for a host with these keys."""
    with pytest.raises(InventoryError) as caught:
        parse_inventory(f"hosts: {{a: {{{body}}}}}", environ={"HF_TOKEN": "hf_secret"})
    (problem,) = caught.value.problems
    assert "hf_secret" not in problem
    return problem


@pytest.mark.parametrize(
    "text",
    ["a b", "-x", "a;b", "a`b`", "a|b", "a&b", "a/b", "a'b", "a\nb", "fe80::1%$(id)", "::1::", "[::1]", "a@b"],
)
def test_an_address_is_a_name_or_a_number(text: str) -> None:
    assert refused(f"address: {text!r}").startswith("hosts.a.address: ")


@pytest.mark.parametrize("text", ["a b", "$(id)", "a;b", "-l", "a\\", "\\a", "a\\b\\c", "a'b"])
def test_a_user_is_a_login(text: str) -> None:
    quoted = text.replace("'", "''")
    assert refused(f"user: '{quoted}'").startswith("hosts.a.user: ")


@pytest.mark.parametrize("text", ["a b", "u@h:0", "u@h:99999", "u@h:x", "$(id)@h", "h;id", "::1:x", "a,b", "@h:"])
def test_a_jump_is_user_host_and_port(text: str) -> None:
    assert refused(f"jump: {text!r}").startswith("hosts.a.jump: ")


@pytest.mark.parametrize("key", ["address", "user", "jump"])
def test_no_variable_becomes_part_of_a_name_that_is_resolved(key: str) -> None:
    assert refused(f"{key}: '${{HF_TOKEN}}.evil.example'").startswith(
        f"hosts.a.{key}: '${{HF_TOKEN}}.evil.example'"
    )
    with pytest.raises(InventoryError, match=r"rendezvous.endpoint: .*HF_TOKEN"):
        parse_inventory(
            "{hosts: [a], rendezvous: {endpoint: '${HF_TOKEN}.evil.example:1'}}", environ={"HF_TOKEN": "x"}
        )


def test_what_names_a_machine_is_taken() -> None:
    hosts = parse_inventory(
        "hosts:\n"
        "  a: {address: gpu_1.lab.example, user: 'CORP\\alice', jump: ['bob@h:2222', '[fe80::1%eth0]:22', '::1']}\n"
        "  b: {address: 'fe80::1%eth0', user: alice@corp.example, jump: alice@corp.example@h}\n"
        "  'c[1-2]': {address: '10.0.0.[1-2]', user: _svc-x+1.y}\n"
        "rendezvous: {endpoint: '[fe80::1]:29400'}\n"
    ).hosts
    assert hosts[0].user == "CORP\\alice"
    assert hosts[0].jump == ("bob@h:2222", "[fe80::1%eth0]:22", "::1")
    assert hosts[1].address == "fe80::1%eth0"
    assert [host.address for host in hosts[2:]] == ["10.0.0.1", "10.0.0.2"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder in a home of its own, with a secret beside it."""
    (tmp_path / "secret").write_text("key")
    made = tmp_path / "project"
    made.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.chdir(made)
    return made


@pytest.mark.parametrize("way", ["key", "link.txt", "including.txt"])
def test_an_environment_is_read_from_no_other_kind_of_file(project: Path, way: str) -> None:
    """The file's lines go to the hosts, and a token on a line of its own looks like a package."""
    key = project.parent / "key"
    key.write_text("hf_token\n")
    (project / "link.txt").symlink_to(key)
    (project / "including.txt").write_text(f"numpy\n-r {key}\n")
    hosts = project / "hosts.yaml"
    hosts.write_text(f"{NOBODY}defaults: {{env: {key if way == 'key' else way}}}\n")
    with pytest.raises(UsageError, match=r"^env: .*: expected a requirements file"):
        sync(Target(hosts), SyncOptions(), Display())


HOSTS = "hosts:\n  node1: {address: a}\n  node2: {address: b, interface: eth7}\n  node3: {address: c}\n"


def mended(hosts: Path, interface: str, address: str = "10.0.0.9") -> tuple[list[str], int]:
    """Mend as ``orch doctor --fix --yes`` does, where node2 claims to have one interface, of this name.

    Returns the questions asked and the number of mends made.
    """
    seen = healthy()
    chosen = tuple(replace(each, interface="eth7") if each.name == "node2" else each for each in seen.hosts)
    known = replace(seen.facts["node2"], addresses=(Address(interface, address, 24),), ssh_address=address)
    examined = replace(seen, hosts=chosen, facts={**seen.facts, "node2": known})
    findings = [each for each in check(examined) if each.check == "interface"]
    assert [each.nodes for each in findings] == [("node2",)]
    asked: list[str] = []
    opened = OpenCluster(parse_inventory(HOSTS), chosen, (), 1)
    made = mend(opened, hosts, findings, [], lambda question: not asked.append(question), Display())
    return asked, made


@pytest.mark.parametrize(
    "name",
    [
        "eth0}\n  evil: {address: 192.0.2.1",
        "e, jump: x@evil",
        "e}\n  z: {env: 1",
        "e\n  z: {}\n#",
        "${HF_TOKEN}",
        "a b",
        "a/b",
        "a" * 16,
        "e#x",
        "'",
        "*a",
        "",
        "auto",
        "\x1b[2J",
    ],
)
def test_a_node_writes_nothing_but_an_interfaces_name_into_the_hosts_file(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hosts = tmp_path / "hosts.yaml"
    hosts.write_text(HOSTS)
    assert mended(hosts, name) == ([], 0)
    assert hosts.read_text() == HOSTS
    said = capsys.readouterr().err
    assert said.startswith("error: hosts.node2.interface: ") and "is not a valid interface" in said
    assert said.count("\n") == 1 and said.strip().isprintable()
    assert list(tmp_path.iterdir()) == [hosts]


@pytest.mark.parametrize(
    ("name", "written"),
    [("ens1f0.100", "ens1f0.100"), ("null", "'null'"), ("on", "'on'"), ("0x1f", "'0x1f'"), ("123", "'123'")],
)
def test_an_interface_is_written_as_text_through_a_link(tmp_path: Path, name: str, written: str) -> None:
    real, hosts = tmp_path / "real.yaml", tmp_path / "hosts.yaml"
    real.write_bytes(HOSTS.replace("\n", "\r\n").encode())
    real.chmod(0o640)
    hosts.symlink_to(real)
    # A link that another user left there is not written through.
    (tmp_path / "hosts.yaml.partial").symlink_to(tmp_path / "elsewhere")
    asked, made = mended(hosts, name)
    assert asked == [f"{hosts}: set hosts.node2.interface to {name}?"]
    assert made == 1
    assert real.read_bytes().decode() == HOSTS.replace("eth7", written).replace("\n", "\r\n")
    assert parse_inventory(real.read_text()).hosts[1].interface == name
    assert real.stat().st_mode & 0o777 == 0o640
    assert hosts.is_symlink() and not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "text",
    [
        "hosts:\n  a: &x {port: 1}\n  b: *x\n",
        "y: &x {port: 1}\nhosts:\n  a: *x\n  b: *x\n",
        "hosts:\n  a: {interface: &i eth7}\n  b: {interface: *i}\n",
        "hosts:\n  a: {interface: eth7, <<: {interface: &i eth7}}\n  b: {interface: *i}\nhosts: {}\n",
    ],
)
def test_what_would_change_another_host_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be set without|no keys of its own"):
        set_host_value(text, "a", "interface", "eth0")


def test_an_address_is_written_only_if_it_is_one() -> None:
    with pytest.raises(UsageError, match="is not a valid fabric address"):
        set_host_value(HOSTS, "node1", "fabric_address", "10.0.0.1, jump: evil")
    assert "{fabric_address: 10.0.0.1, address: a}" in set_host_value(HOSTS, "node1", "fabric_address", "10.0.0.1")
