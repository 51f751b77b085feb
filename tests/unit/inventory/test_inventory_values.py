"""Hosts files: each key's exact value or mistake, ranges, destinations, edits and recorded host keys."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from orchestrator.core.inventory.hosts import DataSource, Rendezvous
from orchestrator.core.inventory.parsing import parse_inventory
from orchestrator.core.inventory.reading import Reader, listed, nearest
from orchestrator.errors import InventoryError

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
                "passed": {},
                "not_set": (),
                "container": None,
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
        "foreign": False,
        "notes": (),
        "places": {},
        "scheduler": None,
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
                "prt: unknown key; did you mean port?",
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
                " workdir, python, environment, env, pass_env, ..."
            ],
        ),
        ("{hosts: [a], spares: b}", ["spares: 'b': expected a list of host names"]),
        ("{hosts: [a], spares: [3]}", ["spares: 3: expected the name of a host"]),
        ("{hosts: [a, b], spares: ['b[']}", ["spares: 'b[': expected the name of a host; did you mean b?"]),
        ("{hosts: [a], master: [a]}", ["master: ['a']: expected the name of a host"]),
        (
            "{hosts: [node1, b], master: node}",
            ["master: 'node': expected the name of a host; did you mean node1?"],
        ),
        (
            "{hosts: [a], data: [x, {pth: y}]}",
            [
                "data[1].pth: unknown key; did you mean path?",
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
                " sandbox, grace, pass_env, scheduler"
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
    assert nearest("prot", ("host", "port")) == "did you mean port?"
    assert nearest("zzz", ("host", "port")) == ""
