"""What nodes are told about each other, and that nothing a node says of itself gets into the files of others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.core.checks.facts import Address
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.keys.between import between_entries, peer
from orchestrator.core.keys.changes import grouped, told
from orchestrator.core.keys.login import login_entries, login_purpose
from orchestrator.errors import PreflightError
from orchestrator.protocol.keys import ArrangeKeys, FileChange, KeysArranged
from orchestrator.protocol.shapes import Misshapen
from tests.unit.checks.facts import node

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEIbi2s4fK1RfKNUZoF8KGIprj3YzoOSsBO69TEOlRuc orch, between nodes"
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIB07F3ZYAUx0vU1y0Up5h7nLvCZQdKLf6zz1dNV3kzQt"


def test_a_node_is_known_by_all_its_names_and_calls_from_its_own_addresses() -> None:
    addresses = (
        Address("lo", "127.0.0.1", 8),
        Address("eth0", "10.0.0.1", 24),
        Address("eth0", "fe80::1%eth0", 64),
        Address("eth0", "2001:db8::a:1", 64),
        Address("docker0", "172.17.0.1", 16),
    )
    facts = replace(node("a"), user="ubuntu", addresses=addresses, ssh_address="10.0.0.1")
    host = Host("node1", "gpu1.lab", fabric_address="192.168.7.1", port=2222)
    one = peer(host, facts, KEY, HOST_KEY, ["203.0.113.5"])
    assert one.names == ("203.0.113.5", "192.168.7.1", "10.0.0.1", "gpu1.lab", "node1")
    assert one.sources == ("203.0.113.5", "192.168.7.1", "10.0.0.1", "2001:db8::/64")
    (files,) = between_entries("my lab", [one]).values()
    assert list(between_entries("my lab", [one])) == ["between my%20lab/node1"]
    assert files["authorized_keys"] == (f'from="10.0.0.1,192.168.7.1,2001:db8::/64,203.0.113.5" {KEY}',)
    (line,) = files["known_hosts"]
    assert line.startswith("[203.0.113.5]:2222,[192.168.7.1]:2222,") and line.endswith(f",[node1]:2222 {HOST_KEY}")
    (block,) = files["config"]
    assert "Match host 203.0.113.5,192.168.7.1,10.0.0.1,gpu1.lab,node1 user ubuntu\n" in block
    assert "\nMatch all\n" in block


def test_nodes_that_share_a_key_may_use_it_from_all_their_addresses() -> None:
    peers = [
        peer(
            Host(name, f"10.0.0.{number}"),
            replace(node(name), addresses=(Address("eth0", f"10.0.0.{number}", 24),), ssh_address=None),
            KEY,
            HOST_KEY,
            [],
        )
        for number, name in enumerate(("a", "b"), 1)
    ]
    lines = {each["authorized_keys"] for each in between_entries("lab", peers).values()}
    assert lines == {(f'from="10.0.0.1,10.0.0.2" {KEY}',)}


@pytest.mark.parametrize("user", ["root\n    ProxyCommand evil", "a b", 'x"', "", "*"])
def test_a_user_that_would_not_stay_within_its_line_is_refused(user: str) -> None:
    with pytest.raises(PreflightError, match="unusual name"):
        peer(Host("node1", "10.0.0.1"), replace(node("a"), user=user), KEY, HOST_KEY, [])


@pytest.mark.parametrize(
    "public",
    [f"{KEY}\nssh-rsa AAAA evil", f'command="x" {KEY}', "ssh-rsa AAAAB3Nza me", "ssh-ed25519 A", f"{KEY}\x1b[2J"],
)
def test_a_public_key_of_a_node_is_one_line_without_options(public: str) -> None:
    assert KeysArranged.from_wire({"home": "h", "public": KEY, "files": {}}).public == KEY
    with pytest.raises(Misshapen, match="public"):
        KeysArranged.from_wire({"home": "h", "public": public, "files": {}})


@pytest.mark.parametrize("name", ["../x", "id_rsa", "authorized_keys2"])
def test_no_other_file_can_be_asked_for(name: str) -> None:
    with pytest.raises(Misshapen, match="authorized_keys"):
        ArrangeKeys.from_wire({"entries": {"login x": {name: []}}, "write": True})


def test_the_purpose_of_a_key_is_its_fingerprint() -> None:
    renamed = " ".join([*KEY.split()[:2], "another comment"])
    assert login_purpose(KEY) == login_purpose(renamed)
    assert login_purpose(KEY).startswith("login SHA256:") and login_purpose(KEY) != login_purpose(HOST_KEY)
    assert login_entries(KEY) == {login_purpose(KEY): {"authorized_keys": (KEY,)}}
    with pytest.raises(ValueError, match="not a public key"):
        login_purpose("ssh-ed25519 ?")


def test_changes_are_told_in_one_line_for_each_file_and_equal_ones_once() -> None:
    answer = KeysArranged(
        home="h",
        public=None,
        key_made=True,
        files={"authorized_keys": FileChange(added=1, mode=0o644), "config": FileChange(removed=2, deleted=True)},
    )
    assert told(answer, done=False) == (
        "make a key for logins between nodes, ~/.ssh/id_ed25519_orch",
        "~/.ssh/authorized_keys: 1 entry added, mode 644",
        "~/.ssh/config: 2 entries removed, nothing is left, so the file goes, too",
    )
    assert grouped({"node1": ["x"], "node2": ["x"], "other": ["y"]}) == {"node[1-2]": ("x",), "other": ("y",)}
