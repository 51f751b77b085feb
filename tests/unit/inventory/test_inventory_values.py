"""Hosts files: each key's exact value or mistake, ranges, destinations, edits and recorded host keys."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.inventory import strictyaml
from orchestrator.core.inventory.destination import Hop, is_endpoint, is_machine, is_user, parse_hop
from orchestrator.core.inventory.edit import set_host_value
from orchestrator.core.inventory.hostrange import RangeError, expand, folded
from orchestrator.core.inventory.hosts import DataSource, Rendezvous, parse_inventory, select
from orchestrator.core.inventory.known_hosts import KnownHosts
from orchestrator.core.inventory.reading import Reader, listed, nearest, parse_size
from orchestrator.core.inventory.target import Settings
from orchestrator.errors import InventoryError, UsageError

ENVIRON = {"HOME": "/home/me", "EMPTY": ""}
FINGERPRINT = "SHA256:" + "a" * 43
WORD = "a word without spaces that does not begin with '-'"
NAMES = "letters, digits, '.', '_' and '-', at most 63"
TAKEN = "another name: each run keeps a file or folder of its own under this one"
SIZE = "a size such as 500 MB or 2 GiB"
GRACE = "a number of seconds from 0 to 604800"


def mistakes(text: str) -> list[str]:
    with pytest.raises(InventoryError) as caught:
        parse_inventory(text, environ=ENVIRON)
    return list(caught.value.problems)


def test_what_a_file_leaves_out_has_these_values() -> None:
    assert asdict(parse_inventory("hosts: [a]")) == {
        "cluster": "cluster",
        "hosts": (
            {
                "name": "a",
                "address": "a",
                "user": None,
                "port": None,
                "identity_file": None,
                "jump": (),
                "host_key": None,
                "fabric_address": None,
                "interface": None,
                "gpus": None,
                "nproc": None,
                "workdir": "~/orch-work",
                "python": None,
                "environment": None,
                "env": {},
            },
        ),
        "spares": (),
        "rendezvous": {"backend": "static", "port": None, "interface": None, "id": None, "endpoint": None},
        "outputs": {
            "max_bytes": 1 << 30,
            "include": ("**",),
            "exclude": ("__pycache__/", "*.pyc", ".git/"),
            "max_log": 1 << 30,
        },
        "sandbox": False,
        "source": "hosts.yaml",
        "data": (),
        "grace": None,
    }


@pytest.mark.parametrize(
    ("key", "written", "value"),
    [
        ("address", "10.0.0.1", "10.0.0.1"),
        ("address", "'h[7]'", "h7"),
        ("port", "1", 1),
        ("port", "65535", 65535),
        ("gpus", "0", 0),
        ("gpus", "1024", 1024),
        ("nproc", "1", 1),
        ("nproc", "1024", 1024),
        ("identity_file", "'${HOME}/.ssh/key'", "/home/me/.ssh/key"),
        ("workdir", "/data/$$x", "/data/$x"),
        ("workdir", "'${NO:-/tmp}/x'", "/tmp/x"),
        ("workdir", "'${EMPTY:-/tmp}/x'", "/tmp/x"),
        ("workdir", "'x${NO:-}${EMPTY}'", "x"),
        ("workdir", "$HOME", "$HOME"),
        ("python", "python3.11", "python3.11"),
        ("environment", "r.txt", "r.txt"),
        ("jump", "h", ("h",)),
        ("jump", "[me@out:22, '[::1]:23']", ("me@out:22", "[::1]:23")),
        ("jump", "[]", ()),
        ("interface", "eth0", "eth0"),
        ("interface", "auto", None),
        ("fabric_address", "10.0.0.2", "10.0.0.2"),
        ("fabric_address", "'2001:0DB8::0001'", "2001:db8::1"),
        ("host_key", "ssh-ed25519 AAAA/+= me@home", "ssh-ed25519 AAAA/+="),
        ("host_key", "'  ecdsa-sha2-nistp256   AAAA  '", "ecdsa-sha2-nistp256 AAAA"),
        ("host_key", FINGERPRINT, FINGERPRINT),
        ("env", "{A: true, B: no, C: 7, D: 1.5}", {"A": "true", "B": "false", "C": "7", "D": "1.5"}),
        ("env", "{A: text, B: '', orch_x: 1, _1: x}", {"A": "text", "B": "", "orch_x": "1", "_1": "x"}),
        ("env", "{A: '$$', B: '${NO:-d}', C: '${EMPTY}'}", {"A": "$", "B": "d", "C": ""}),
    ],
)
def test_a_key_of_a_host_becomes_this_value(key: str, written: str, value: Any) -> None:
    host = parse_inventory(f"hosts: {{a: {{{key}: {written}}}}}", environ=ENVIRON).hosts[0]
    assert getattr(host, key) == value and type(getattr(host, key)) is type(value)


def test_env_may_name_the_file_that_environment_names() -> None:
    host = parse_inventory("hosts: {a: {env: '${HOME}/r.txt'}}", environ=ENVIRON).hosts[0]
    assert host.environment == "/home/me/r.txt" and host.env == {}


def test_a_hosts_own_keys_replace_the_defaults_and_its_variables_join_theirs() -> None:
    first, second = parse_inventory(
        "defaults: {user: me, port: 2, jump: h, env: {A: 1, B: 1}}\n"
        "hosts: {a: {port: 3, jump: [], env: {B: 2}}, b: {}}\n"
    ).hosts
    assert (first.user, first.port, first.jump, first.env) == ("me", 3, (), {"A": "1", "B": "2"})
    assert (second.user, second.port, second.jump, second.env) == ("me", 2, ("h",), {"A": "1", "B": "1"})


def test_ranges_of_addresses_expand_in_step_with_the_names() -> None:
    hosts = parse_inventory(
        "hosts:\n"
        "  'a[1-2]': {fabric_address: '10.0.0.[8-9]'}\n"
        "  'b[1-2]': {address: 'h[3,5]', fabric_address: 'fd00::[1-2]'}\n"
        "  'c[1-2]': {fabric_address: 10.1.0.1}\n"
    ).hosts
    assert [(host.name, host.address, host.fabric_address) for host in hosts] == [
        ("a1", "a1", "10.0.0.8"),
        ("a2", "a2", "10.0.0.9"),
        ("b1", "h3", "fd00::1"),
        ("b2", "h5", "fd00::2"),
        ("c1", "c1", "10.1.0.1"),
        ("c2", "c2", "10.1.0.1"),
    ]


def test_the_other_keys_of_a_file_become_these_values() -> None:
    inventory = parse_inventory(
        "cluster: lab.1_x\n"
        "hosts: [a, b1, b2]\n"
        "spares: ['b[1-2]', b1]\n"
        "sandbox: true\n"
        "grace: 604800\n"
        "rendezvous: {backend: c10d, port: 65535, interface: eth0, id: job-1, endpoint: 'h:29400'}\n"
        "outputs: {max_size: 1.5 KiB, include: ['*.pt'], exclude: [], max_log: 0}\n"
        "data: [x, {path: '${HOME}/y', to: '/z'}, {path: w}]\n",
        source="lab.yaml",
        environ=ENVIRON,
    )
    assert (inventory.cluster, inventory.source, inventory.sandbox) == ("lab.1_x", "lab.yaml", True)
    assert inventory.spares == ("b1", "b2")
    assert inventory.grace == 604800.0 and isinstance(inventory.grace, float)
    assert inventory.rendezvous == Rendezvous("c10d", 65535, "eth0", "job-1", "h:29400")
    assert list(asdict(inventory.outputs).values()) == [1536, ("*.pt",), (), 0]
    assert inventory.data == (DataSource("x", None), DataSource("/home/me/y", "/z"), DataSource("w", None))
    assert parse_inventory("{hosts: [a], grace: 0}").grace == 0.0


def test_the_first_host_that_is_no_spare_is_the_master() -> None:
    inventory = parse_inventory("{hosts: [a, b, c], spares: [a]}")
    assert [host.name for host in inventory.hosts] == ["b", "a", "c"] and inventory.master.name == "b"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("workdir: ''", ["workdir: '': expected text"]),
        ("workdir: 3", ["workdir: 3: expected text (quote it)"]),
        ("workdir: null", ["workdir: None: expected text (quote it)"]),
        ('workdir: "a\\0b"', ["workdir: 'a\\x00b': expected text"]),
        (
            "python: '${X}/${Y}'",
            [
                "python: '${X}/${Y}': expected the environment variable X to be set",
                "python: '${X}/${Y}': expected the environment variable Y to be set",
            ],
        ),
        ("fabric_address: ''", ["fabric_address: '': expected a word"]),
        ("fabric_address: 10", ["fabric_address: 10: expected a word (quote it)"]),
        ("fabric_address: 'a b'", [f"fabric_address: 'a b': expected {WORD}"]),
        ("fabric_address: '[::1]'", ["fabric_address: '[::1]': expected a numeric address such as 10.0.0.2"]),
        ("interface: -x", [f"interface: '-x': expected {WORD}"]),
        ("interface: a/b", ["interface: 'a/b': expected an interface name such as eth0"]),
        (f"interface: {'e' * 41}", [f"interface: '{'e' * 41}': expected an interface name such as eth0"]),
        ("user: 3", ["user: 3: expected a user name (quote it)"]),
        ("user: a$b", ["user: 'a$b': expected a user name; ${VAR} is not expanded here"]),
        ("address: a$b", ["address: 'a$b': expected a host name or address; ${VAR} is not expanded here"]),
        ("address: '[::1]'", ["address: '[::1]': expected a host name or address"]),
        ("address: 'h[1-2]'", ["address: 'h[1-2]': expected 1 addresses, one for each name; the range has 2"]),
        ("address: '[1-2'", ["address: '[1-2': expected a range; its brackets do not match"]),
        ("jump: 3", ["jump: 3: expected [user@]host[:port] (quote it)"]),
        ("jump: [h, a b]", ["jump: 'a b': expected [user@]host[:port]"]),
        ("host_key: 3", ["host_key: 3: expected a public key or SHA256:fingerprint (quote it)"]),
        ("host_key: ''", ["host_key: '': expected a public key or SHA256:fingerprint"]),
        ("host_key: rsa AAAA", ["host_key: 'rsa AAAA': expected 'ssh-ed25519 AAAA...' or 'SHA256:...'"]),
        ("host_key: SHA256:abc", ["host_key: 'SHA256:abc': expected 'ssh-ed25519 AAAA...' or 'SHA256:...'"]),
        ("port: 65536", ["port: 65536: expected a whole number from 1 to 65535"]),
        ("gpus: 1025", ["gpus: 1025: expected a whole number from 0 to 1024"]),
        ("gpus: 1.0", ["gpus: 1.0: expected a whole number from 0 to 1024"]),
        ("nproc: 1025", ["nproc: 1025: expected a whole number from 1 to 1024"]),
        ("env: ''", ["env: '': expected text"]),
        (
            "env: 3",
            ["env: 3: expected a mapping of variables, NAME: value, or the name of a requirements file"],
        ),
        ("env: {1a: x}", ["env.1a: '1a': expected a variable name: letters, digits and '_'"]),
        ("env: {2: x}", ["env.2: 2: expected a variable name: letters, digits and '_'"]),
        (
            "env: {ORCH_X: 1}",
            ["env.ORCH_X: torchrun and orch set this variable themselves: expected another name"],
        ),
        ("env: {X: [1]}", ["env.X: [1]: expected text or a number"]),
        ('env: {X: "a\\0"}', ["env.X: 'a\\x00': expected text or a number"]),
        ("env: {X: '${NO}'}", ["env.X: '${NO}': expected the environment variable NO to be set"]),
        ("env: {HF_TOKEN: [x]}", ["env.HF_TOKEN: ***: expected text or a number"]),
        (
            "prt: 1, zzz: 2",
            [
                "prt: unknown key; did you mean 'port'?",
                "zzz: unknown key; known: address, host_key, fabric_address, user, port, identity_file, jump,"
                " interface, gpus, nproc, workdir, python, ...",
            ],
        ),
    ],
)
def test_a_mistake_in_a_key_of_a_host_is_told_in_these_words(keys: str, said: list[str]) -> None:
    assert mistakes(f"hosts: {{a: {{{keys}}}}}") == [f"hosts.a.{line}" for line in said]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["the file is empty: expected at least 'hosts:' with one host"]),
        (
            "hosts: [a, a, b, b]",
            [
                "hosts.a: the host is given twice: expected different names",
                "hosts.b: the host is given twice: expected different names",
            ],
        ),
        ("hosts: [a, 3]", ["hosts: ['a', 3]: expected a mapping with at least one host"]),
        ("hosts: [Logs]", [f"hosts.Logs: 'Logs': expected {TAKEN}"]),
        ("hosts: [plan.attempt2.json]", [f"hosts.plan.attempt2.json: 'plan.attempt2.json': expected {TAKEN}"]),
        ("hosts: [a b]", [f"hosts.a b: 'a b': expected {NAMES}"]),
        ('hosts: ["a\\e"]', [f"hosts.a\\x1b: 'a\\x1b': expected {NAMES}"]),
        (f"hosts: [{'a' * 64}]", [f"hosts.{'a' * 64}: '{'a' * 56}...: expected {NAMES}"]),
        ("hosts: {a: 3}", ["hosts.a: 3: expected a mapping of keys to values"]),
        ("hosts: {a: []}", ["hosts.a: []: expected a mapping of keys to values"]),
        (
            "hosts: {'n[1-2]': {fabric_address: '10.0.0.[2-1]'}}",
            ["hosts.n[1-2].fabric_address: '10.0.0.[2-1]': expected a range; [2-1] runs backwards"],
        ),
        ("{hosts: [a], cluster: ''}", ["cluster: '': expected a name"]),
        ("{hosts: [a], cluster: 3}", ["cluster: 3: expected a name (quote it)"]),
        ("{hosts: [a], cluster: -a}", [f"cluster: '-a': expected {NAMES}"]),
        ("{hosts: [a], sandbox: 1}", ["sandbox: 1: expected true or false"]),
        ("{hosts: [a], grace: -0.1}", [f"grace: -0.1: expected {GRACE}"]),
        ("{hosts: [a], grace: 604801}", [f"grace: 604801: expected {GRACE}"]),
        ("{hosts: [a], grace: true}", [f"grace: True: expected {GRACE}"]),
        ("{hosts: [a], grace: '3'}", [f"grace: '3': expected {GRACE}"]),
        ("{hosts: [a], grace: .nan}", [f"grace: nan: expected {GRACE}"]),
        (
            "{hosts: [a], outputs: {max_size: -1, max_log: 1.5, include: x, exclude: [1]}}",
            [
                f"outputs.max_size: -1: expected {SIZE}",
                "outputs.include: 'x': expected a list of patterns",
                "outputs.exclude: [1]: expected a list of patterns",
                f"outputs.max_log: 1.5: expected {SIZE}",
            ],
        ),
        ("{hosts: [a], outputs: {max_size: true}}", [f"outputs.max_size: True: expected {SIZE}"]),
        ("{hosts: [a], outputs: 3}", ["outputs: 3: expected a mapping of keys to values"]),
        ("{hosts: [a], defaults: 3}", ["defaults: 3: expected a mapping of keys to values"]),
        (
            "{hosts: [a], defaults: {address: x}}",
            [
                "defaults.address: unknown key; known: user, port, identity_file, jump, interface, gpus, nproc,"
                " workdir, python, environment, env"
            ],
        ),
        ("{hosts: [a], spares: b}", ["spares: 'b': expected a list of host names"]),
        ("{hosts: [a], spares: [3]}", ["spares: 3: expected the name of a host"]),
        ("{hosts: [a, b], spares: ['b[']}", ["spares: 'b[': expected the name of a host; did you mean 'b'?"]),
        ("{hosts: [a], master: [a]}", ["master: ['a']: expected the name of a host"]),
        (
            "{hosts: [node1, b], master: node}",
            ["master: 'node': expected the name of a host; did you mean 'node1'?"],
        ),
        (
            "{hosts: [a], data: [x, {pth: y}]}",
            [
                "data[1].pth: unknown key; did you mean 'path'?",
                "data[1].path: None: expected a path on this machine",
            ],
        ),
        ("{hosts: [a], data: [{path: x, to: ''}]}", ["data[0].to: '': expected text"]),
        (
            "{hosts: [a], rendezvous: {port: 0, id: '', endpoint: 3, interface: '', backend: x}}",
            [
                "rendezvous.port: 0: expected a whole number from 1 to 65535",
                "rendezvous.id: '': expected a name",
                "rendezvous.endpoint: 3: expected host[:port] (quote it)",
                "rendezvous.interface: '': expected a word",
                "rendezvous.backend: 'x': expected static or c10d",
            ],
        ),
        (
            "{sandbox: true, hosts: {a: {user: x, port: 2}}}",
            [
                "hosts.a.port: a sandbox host has no such key: expected it to be left out",
                "hosts.a.user: a sandbox host has no such key: expected it to be left out",
            ],
        ),
        (
            "hosts: {a: {port: 2}, b: {address: a, port: 2}}",
            ["hosts.b.address: 'a': expected an address that a does not have"],
        ),
        (
            "{hosts: [a], zzz: 1}",
            [
                "zzz: unknown key; known: cluster, defaults, hosts, spares, master, rendezvous, outputs, data,"
                " sandbox, grace"
            ],
        ),
    ],
)
def test_a_mistake_elsewhere_in_a_file_is_told_in_these_words(text: str, said: list[str]) -> None:
    assert mistakes(text) == said


def test_one_address_may_be_listed_again_behind_another_port_or_hop() -> None:
    hosts = parse_inventory("hosts: {a: {}, b: {address: a, port: 2}, c: {address: a, jump: h}}").hosts
    assert [host.address for host in hosts] == ["a", "a", "a"]
    sandbox = parse_inventory("{sandbox: true, hosts: {a: {gpus: 0}, b: {gpus: 0}}}")
    assert [host.name for host in sandbox.hosts] == ["a", "b"]


@pytest.mark.parametrize(
    ("read", "value"),
    [
        ("text", "${NO}"),
        ("word", "a b"),
        ("boolean", 0),
        ("seconds", -1),
        ("address", "h"),
        ("environment", []),
        ("size", "1 PB"),
        ("patterns", "x"),
    ],
)
def test_an_invalid_value_is_one_mistake_and_reads_as_the_default(read: str, value: Any) -> None:
    reader = Reader({})
    assert reader.take({"k": value}, "k", "", getattr(reader, read), "default") == "default"
    assert len(reader.problems) == 1 and reader.problems[0].startswith(f"k: {value!r}: expected ")


def test_a_long_value_is_cut_at_60_characters() -> None:
    reader = Reader({})
    reader.problem("k", "x" * 58, "y")
    reader.problem("k", "x" * 59, "y")
    assert reader.problems == [f"k: '{'x' * 58}': expected y", f"k: '{'x' * 56}...: expected y"]


def test_known_words_are_listed_a_dozen_at_most() -> None:
    dozen = [f"key{number}" for number in range(12)]
    assert listed(dozen) == "known: " + ", ".join(dozen)
    assert listed([*dozen, "more"]) == "known: " + ", ".join(dozen) + ", ..."
    assert nearest("prot", ("host", "port")) == "did you mean 'port'?"
    assert nearest("zzz", ("host", "port")) == ""


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
        ("0", "--nodes 0: lab.yaml has 2 hosts that are not spares"),
        ("3", "--nodes 3: lab.yaml has 2 hosts that are not spares"),
        ("99999", "--nodes 99999: lab.yaml has 2 hosts that are not spares"),
        ("000001", "--nodes '000001' matches no host → known: node1, node2, spare"),
        ("node[1", "--nodes 'node[1': its brackets do not match"),
        ("node[2-3]", "--nodes 'node3' matches no host → did you mean 'node2'?"),
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
