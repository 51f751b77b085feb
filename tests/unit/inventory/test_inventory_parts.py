"""The parts of an inventory: sizes, choices of nodes, ranges, hops, edits, known_hosts, strict YAML."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.inventory import strictyaml
from orchestrator.core.inventory.destination import Hop, is_endpoint, is_machine, is_user, parse_hop
from orchestrator.core.inventory.edit import set_host_value
from orchestrator.core.inventory.hostrange import RangeError, expand, folded
from orchestrator.core.inventory.hosts import select
from orchestrator.core.inventory.known_hosts import KnownHosts
from orchestrator.core.inventory.parsing import parse_inventory
from orchestrator.core.inventory.reading import parse_size
from orchestrator.core.inventory.target import Settings
from orchestrator.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("7", 7),
        ("7B", 7),
        ("20M", 20_000_000),
        ("500 MB", 500_000_000),
        ("1GiB", 1 << 30),
        ("1gi", 1 << 30),
        ("1.5 KiB", 1536),
        ("2kb", 2000),
        ("3 T", 3 * 10**12),
        ("1 TiB", 1 << 40),
        ("", None),
        ("-1", None),
        ("1 PB", None),
        ("1e3", None),
        (".5 G", None),
        ("1 GB x", None),
    ],
)
def test_a_size_is_this_many_bytes(text: str, size: int | None) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        (None, ["a1", "a2"]),
        ("1", ["a1"]),
        (" 2 ", ["a1", "a2"]),
        ("b", ["b"]),
        ("*", ["a1", "a2", "b"]),
        ("b, a?", ["a1", "a2", "b"]),
    ],
)
def test_nodes_are_chosen_in_the_files_order(expression: str | None, names: list[str]) -> None:
    inventory = parse_inventory("{hosts: [a1, a2, b], spares: [b]}")
    assert [host.name for host in select(inventory, expression)] == names


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("0", "--nodes 0: lab.yaml has 2 hosts besides spares"),
        ("3", "--nodes 3: lab.yaml has 2 hosts besides spares"),
        ("99999", "--nodes 99999: lab.yaml has 2 hosts besides spares"),
        ("000001", "--nodes '000001' matches no host → known: node1, node2, spare"),
        ("node[1", "--nodes 'node[1': its brackets do not match"),
        ("node[2-3]", "--nodes 'node3' matches no host → did you mean node2?"),
        ("zzz", "--nodes 'zzz' matches no host → known: node1, node2, spare"),
        ("node1,", "--nodes '' matches no host → known: node1, node2, spare"),
    ],
)
def test_nodes_that_are_not_there_are_refused_in_these_words(expression: str, said: str) -> None:
    inventory = parse_inventory("{hosts: [node1, node2, spare], spares: [spare]}", source="lab.yaml")
    with pytest.raises(UsageError) as refused:
        select(inventory, expression)
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", [""]),
        ("web", ["web"]),
        ("a[1-3]", ["a1", "a2", "a3"]),
        ("a[01-02]", ["a01", "a02"]),
        ("a[08-10]", ["a08", "a09", "a10"]),
        ("a[8-10]", ["a8", "a9", "a10"]),
        ("a[001-2]", ["a001", "a002"]),
        ("a[1-03]", ["a1", "a2", "a3"]),
        ("a[0-1]", ["a0", "a1"]),
        ("a[3,1]", ["a3", "a1"]),
        ("r[1-2]n[3,05]", ["r1n3", "r1n05", "r2n3", "r2n05"]),
        ("a[5-5]", ["a5"]),
    ],
)
def test_a_range_stands_for_these_names(text: str, names: list[str]) -> None:
    assert expand(text) == names


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a]", "its brackets do not match"),
        ("a[[1]]", "its brackets do not match"),
        ("a[]", "[] is not a range such as [01-04] or [1,3-5]"),
        ("a[1,]", "[1,] is not a range such as [01-04] or [1,3-5]"),
        ("a[1234567890]", "[1234567890] is not a range such as [01-04] or [1,3-5]"),
        ("a[2-1]", "[2-1] runs backwards"),
        ("a[0-4096]", "[0-4096] expands to more than 4096 names"),
        ("a[1-64][1-65]", "it expands to 4160 names; at most 4096 are allowed"),
    ],
)
def test_a_range_that_cannot_be_expanded_says_why(text: str, said: str) -> None:
    with pytest.raises(RangeError) as refused:
        expand(text)
    assert str(refused.value) == said


def test_a_range_may_have_4096_names() -> None:
    for text, first, last in (("a[5000-9095]", "a5000", "a9095"), ("a[0-4095]", "a0", "a4095")):
        names = expand(text)
        assert (len(names), names[0], names[-1]) == (4096, first, last)


@pytest.mark.parametrize(
    ("names", "short"),
    [
        ([], ""),
        (["web", "a3"], "web,a3"),
        (["gpu01", "gpu02", "web"], "gpu[01-02],web"),
        (["a2", "a1", "a10"], "a[1-2,10]"),
        (["a1", "b", "a3", "a4"], "a[1,3-4],b"),
        (["a", "a1"], "a,a1"),
        (["a1", "a01"], "a1,a01"),
        (["1", "2"], "[1-2]"),
    ],
)
def test_names_fold_into_this(names: list[str], short: str) -> None:
    assert folded(names) == short


@given(st.lists(st.from_regex(r"[a-z]{0,2}-?[0-9]{0,4}", fullmatch=True).filter(bool), unique=True, max_size=12))
def test_folded_names_expand_to_the_same_names(names: list[str]) -> None:
    parts = re.split(r",(?![^\[]*\])", folded(names)) if names else []
    assert sorted(name for part in parts for name in expand(part)) == sorted(names)


@pytest.mark.parametrize(
    ("text", "hop"),
    [
        ("h", Hop("h")),
        ("me@h", Hop("h", "me")),
        ("me@corp.example@h", Hop("h", "me@corp.example")),
        ("h:1", Hop("h", None, 1)),
        ("h:65535", Hop("h", None, 65535)),
        ("me@h:22", Hop("h", "me", 22)),
        ("::1", Hop("::1")),
        ("me@fe80::1%eth0", Hop("fe80::1%eth0", "me")),
        ("[::1]:22", Hop("::1", None, 22)),
        ("me@[fe80::1%eth0]:22", Hop("fe80::1%eth0", "me", 22)),
        ("h:65536", None),
        ("h:0", None),
        ("h:022", None),
        ("h:", None),
        ("[h]:22", None),
        ("[::1:22", None),
        ("::1]:22", None),
        ("[::1]", None),
        ("@h", None),
        ("me@", None),
        ("-l@h", None),
        ("", None),
    ],
)
def test_a_hop_is_a_user_a_host_and_a_port(text: str, hop: Hop | None) -> None:
    assert parse_hop(text) == hop


@pytest.mark.parametrize(
    ("fits", "accepted", "refused"),
    [
        (
            is_machine,
            ["a", "_a", "10.0.0.1", "a" * 253, "::", "fe80::1%eth0.1-x"],
            ["", "-a", ".a", "a" * 254, "a\n", "fe80::1%", "fe80::1%e h", "a%eth0", "fe80:::1"],
        ),
        (
            is_user,
            ["a", "CORP\\a", "a@b.c", "svc+x", "a" * 128, "D" * 128 + "\\" + "u" * 128],
            ["", "-a", "@a", "a" * 129, "D" * 129 + "\\u", "a\n", "a:b"],
        ),
        (is_endpoint, ["h", "h:29400", "[::1]:29400", "::1"], ["h:", "[::1]", "me@h", "h:99999", ""]),
    ],
)
def test_names_for_ssh_have_no_other_form(fits: Any, accepted: list[str], refused: list[str]) -> None:
    assert [text for text in accepted if not fits(text)] == []
    assert [text for text in refused if fits(text)] == []


HOSTS = """\
# the lab
hosts:
  a:  # first
    address: x  # rack 1
    interface: eth7  # old
  b: {port: 1}  # second
  c:
  d: {}
  e: [1]
  f: {interface: }
"""


@pytest.mark.parametrize(
    ("host", "key", "value", "old", "new"),
    [
        ("a", "interface", "eth0", "interface: eth7  #", "interface: eth0  #"),
        ("a", "interface", "e" * 15, "eth7", "e" * 15),
        ("a", "interface", "a@b", "eth7", "'a@b'"),
        ("a", "interface", "007", "eth7", "'007'"),
        ("a", "fabric_address", "10.0.0.1", "    address: x", "    fabric_address: 10.0.0.1\n    address: x"),
        ("a", "fabric_address", "fd00::1", "    address: x", "    fabric_address: 'fd00::1'\n    address: x"),
        ("b", "interface", "eth0", "{port: 1}", "{interface: eth0, port: 1}"),
    ],
)
def test_setting_a_value_changes_nothing_else(host: str, key: str, value: str, old: str, new: str) -> None:
    assert set_host_value(HOSTS, host, key, value) == HOSTS.replace(old, new)


BY_HAND = "has no keys of its own to change → add interface: eth0 by hand"
UNCHANGED = "the file is unchanged; list the host's interfaces with: ip address"
NO_ADDRESS = f"is not a valid fabric address → {UNCHANGED}"


@pytest.mark.parametrize(
    ("host", "key", "value", "said"),
    [
        *[
            ("a", "interface", value, f"hosts.a.interface: {value!r} is not a valid interface → {UNCHANGED}")
            for value in ("", ".", "..", "auto", "e" * 16, "-x", "a b", "eth0\n")
        ],
        *[
            ("a", "fabric_address", value, f"hosts.a.fabric_address: {value!r} {NO_ADDRESS}")
            for value in ("eth0", "fe80::1%eth0", "10.0.0", "10.0.0.1/24", "")
        ],
        ("a", "interface", "\u00e9", f"hosts.a.interface: '\\xe9' is not a valid interface → {UNCHANGED}"),
        ("a", "interface", "x" * 80, f"hosts.a.interface: '{'x' * 59} is not a valid interface → {UNCHANGED}"),
        *[(host, "interface", "eth0", f"hosts.{host} {BY_HAND}") for host in "cdez"],
        (
            "f",
            "interface",
            "eth0",
            "hosts.f.interface: 'eth0' cannot be set without changing something else → set it by hand",
        ),
    ],
)
def test_a_value_that_cannot_be_set_says_why(host: str, key: str, value: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        set_host_value(HOSTS, host, key, value)
    assert str(refused.value) == said


@pytest.mark.parametrize("text", ["", "hosts: [a]", "hosts:", "spares: [a]"])
def test_a_file_without_a_mapping_of_hosts_has_nothing_to_set(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        set_host_value(text, "a", "interface", "eth0")
    assert str(refused.value) == f"hosts.a {BY_HAND}"


# The fourth and fifth lines were made by ssh-keygen -H: they stand for gpu1 and [gpu1]:2222.
KNOWN = KnownHosts(
    [
        "gpu2,*.lab.example\tssh-ed25519 K1",
        "!bad.lab.example,*.lab.example,agpu3,gpu3 ssh-rsa K2 a comment",
        "gpu[1] ssh-rsa NO",
        "|1|d2YQwNDLFZ7x9AvF4keWKxQxRiI=|0Wb0LG1UQ5HbwMPWQJb2rbCiEtQ= ssh-ed25519 K3",
        "|1|DXKQ6a8RwJkSj6nto1FejCEawyo=|bxxClG1KyuAIXQym3ttfWOF12ng= ssh-ed25519 K4",
        "[gpu?]:22 ssh-ed25519 K5",
        "  gpu1   ssh-rsa   K6  ",
        "",
        "gpu1",
        "gpu1 K7",
        "#old,gpu1 ssh-rsa K8",
        "# gpu1 ssh-rsa K8",
        "|1|notbase64!|x= ssh-rsa K9",
        "|1|AAAA ssh-rsa K9",
        "@revoked",
        "@other gpu1 ssh-rsa K9",
        "@revoked gpu2,gpu9 ssh-ed25519 K1",
        "@cert-authority *.lab.example ssh-ed25519 CA",
        "gpu2 ssh-rsa K10",
    ]
)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("gpu1", ("ssh-ed25519 K3", "ssh-rsa K6")),
        ("[gpu1]:2222", ("ssh-ed25519 K4",)),
        ("[gpu1]:22", ("ssh-ed25519 K5",)),
        ("gpu2", ("ssh-rsa K10",)),
        ("gpu3", ("ssh-rsa K2",)),
        ("x.lab.example", ("ssh-ed25519 K1", "ssh-rsa K2")),
        ("bad.lab.example", ("ssh-ed25519 K1",)),
        ("gpu[1]", ("ssh-rsa NO",)),
        ("GPU3", ()),
        ("lab.example", ()),
    ],
)
def test_the_keys_recorded_for_a_host_are_those_of_its_lines_that_are_not_revoked(
    name: str, keys: tuple[str, ...]
) -> None:
    assert KNOWN.lookup(name) == keys


def test_lines_with_a_marker_revoke_keys_or_name_authorities() -> None:
    assert KNOWN.revoked("gpu2") == KNOWN.revoked("gpu9") == ("ssh-ed25519 K1",)
    assert KNOWN.revoked("gpu1") == ()
    assert KNOWN.certified("x.lab.example") and not KNOWN.certified("gpu2")


@pytest.mark.parametrize(
    ("settings", "accepted"),
    [
        (Settings(), False),
        (Settings(accept_new_host_keys=True), True),
        (Settings(accept_fingerprint="SHA256:this"), True),
        (Settings(accept_fingerprint="SHA256:other"), False),
    ],
)
def test_an_unknown_key_is_recorded_only_if_the_user_accepts_it(settings: Settings, accepted: bool) -> None:
    assert settings.accepts("SHA256:this") is accepted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", "line 4, column 3: the key 'c' is given twice"),
        ("x: &x {p: 1}\ny: {<<: *x, q: 1, q: 2}", "line 2, column 19: the key 'q' is given twice"),
        ("a: 1\n? [1]\n: x\n", "line 2, column 3: a key must be a plain word"),
        ("b: 1\na: &x\n  b: *x\n", "line 2, column 4: an anchor contains itself"),
        ("a\n---\nb", "line 2, column 1: but found another document"),
        ("a: 'x", "line 1, column 6: found unexpected end of stream"),
        (
            "".join(f"k{n}: &k{n} [{', '.join(['x' if not n else f'*k{n - 1}'] * 10)}]\n" for n in range(6)),
            "line 1, column 1: the document has more than 200000 values once its aliases are expanded",
        ),
    ],
)
def test_yaml_that_is_refused_says_where(text: str, said: str) -> None:
    with pytest.raises(strictyaml.StrictYamlError) as refused:
        strictyaml.load(text)
    assert str(refused.value) == said


def test_aliases_and_merged_keys_are_read() -> None:
    text = "x: &x {p: 1, q: 1}\ny: {<<: *x, p: 2}\nz: [*x, *x]\n"
    assert strictyaml.load(text) == {
        "x": {"p": 1, "q": 1},
        "y": {"p": 2, "q": 1},
        "z": [{"p": 1, "q": 1}, {"p": 1, "q": 1}],
    }
