"""hosts.yaml: a good file is read whole, each mistake is one line, and no input makes a traceback."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.inventory.hosts import select
from orchestrator.core.inventory.parsing import parse_inventory
from orchestrator.errors import InventoryError, UsageError

GOOD = """
cluster: lab
defaults:
  user: ubuntu
  python: ${VENV}/bin/python
  env: {NCCL_DEBUG: WARN}
hosts:
  gpu-node1: {address: 192.168.1.144, gpus: 4}
  gpu-node2: {address: 192.168.1.145, gpus: 2, fabric_address: 10.0.0.2, env: {X: 1}}
  gpu[03-08]: {address: "10.0.1.[3-8]"}
spares: [gpu08]
rendezvous: {backend: static, port: 29500, interface: auto}
"""

BROKEN = [
    ("", "the file is empty"),
    ("hosts: [", "line 1, column 9"),
    ("a: b: c", "line 1, column 5"),
    ("\tx: 1", "line 1, column 1"),
    ("- a", "the file: ['a']: expected a mapping"),
    ("hosts: {a: {}, a: {}}", "the key 'a' is given twice"),
    ("hosts: {'a[1-2]': {}, a1: {}}", "hosts.a1: the host a1 is given twice"),
    ("hosts: {a: {port: 1, port: 2}}", "the key 'port' is given twice"),
    ("hosts: {a: {prot: 22}}", "hosts.a.prot: unknown key; did you mean port?"),
    ("host: {a: {}}", "host: unknown key; did you mean hosts?"),
    ("hosts: {a: {port: 99999}}", "hosts.a.port: 99999: expected a whole number from 1 to 65535"),
    ("hosts: {a: {port: '22'}}", "hosts.a.port: '22': expected a whole number"),
    ("hosts: {a: {port: true}}", "hosts.a.port: True: expected a whole number"),
    ("hosts: {a: {gpus: -1}}", "hosts.a.gpus: -1: expected a whole number from 0"),
    ("hosts: {a: {nproc: 0}}", "hosts.a.nproc: 0: expected a whole number from 1"),
    ("hosts: {}", "hosts: {}: expected a mapping with at least one host"),
    ("cluster: x", "hosts: None: expected the key to be present"),
    ("hosts: 3", "hosts: 3: expected a mapping with at least one host"),
    ("hosts: {'a[5-3]': {}}", "hosts.a[5-3]: 'a[5-3]': expected a name or range; [5-3] runs backwards"),
    ("hosts: {'a[x-y]': {}}", "is not a range"),
    ("hosts: {'a[1-': {}}", "its brackets do not match"),
    ("hosts: {'a[1-999999999]': {}}", "expands to more than 4096 names"),
    ("hosts: {'a[1-3]': {address: '10.0.0.[1-2]'}}", "hosts.a[1-3].address: '10.0.0.[1-2]': expected 3 addresses"),
    ("{hosts: {a: {}}, master: b}", "master: 'b': expected the name of a host"),
    (
        "{hosts: {node1: {}}, spares: [node2]}",
        "spares: 'node2': expected the name of a host; did you mean node1?",
    ),
    ("{hosts: {a: {}}, spares: [a]}", "every host is a spare"),
    ("{hosts: {a: {}, b: {}}, master: b, spares: [b]}", "master: 'b': expected a host that is not a spare"),
    ("hosts: {a: {address: '-oProxyCommand=x'}}", "hosts.a.address: '-oProxyCommand=x': expected a host name"),
    ("hosts: {a: {address: ''}}", "hosts.a.address: '': expected a host name"),
    ("hosts: {a: {address: 10}}", "hosts.a.address: 10: expected a host name or address (quote it)"),
    ("hosts: {a: {env: [A, B]}}", "hosts.a.env: ['A', 'B']: expected a mapping of variables"),
    ("hosts: {a: {env: r.txt, environment: s.txt}}", "hosts.a.env: names 'r.txt', but environment is set"),
    ("hosts: {a: {}}\ndata: x", "data: 'x': expected a list of paths"),
    ("hosts: {a: {}}\ndata: [{to: y}]", "data[0].path: None: expected a path on this machine"),
    ("hosts: {a: {env: {RANK: 1}}}", "hosts.a.env.RANK: torchrun and orch set this variable"),
    ("hosts: {a: {env: {X: null}}}", "hosts.a.env.X: None: expected text or a number"),
    ("hosts: {a: {fabric_address: node1}}", "hosts.a.fabric_address: 'node1': expected a numeric address"),
    ("hosts: {a: {host_key: nonsense}}", "hosts.a.host_key: 'nonsense': expected"),
    ("hosts: {a: {workdir: '${NO_SUCH}'}}", "expected the environment variable NO_SUCH to be set"),
    ("hosts: {1: {}}", "hosts.1: 1: expected a name (quote it)"),
    ("hosts: {on: {}}", "hosts.True: True: expected a name (quote it)"),
    (
        "hosts: {a: {address: x}, b: {address: x}}",
        "hosts.b.address: 'x': expected an address that a does not have",
    ),
    ("{sandbox: true, hosts: {a: {address: x}}}", "hosts.a.address: a sandbox host has no such key"),
    ("{hosts: {a: {}}, outputs: {max_size: big}}", "outputs.max_size: 'big': expected a size"),
    ("{hosts: {a: {}}, rendezvous: {backend: etcd}}", "rendezvous.backend: 'etcd': expected static or c10d"),
    ("hosts: !!python/object:os.system {}", "line 1, column 8"),
    ("hosts: &a {x: *a}", "an anchor contains itself"),
    ("hosts: {a: {}}\n---\nhosts: {b: {}}", "line 2, column 1"),
    ("hosts: {[1]: x, {a: b}: y}", "a key must be a plain word"),
    ("a: 2001-99-99", "month must be"),
    ("hosts: {a: {}}\0", "special characters are not allowed"),
    ("[" * 5000, "nested too deeply"),
]


@pytest.mark.parametrize(("text", "expected"), BROKEN)
def test_a_mistake_is_one_line(text: str, expected: str) -> None:
    with pytest.raises(InventoryError) as caught:
        parse_inventory(text)
    assert any(expected in problem for problem in caught.value.problems), caught.value.problems
    assert all(problem.isprintable() and problem for problem in caught.value.problems)
    assert caught.value.exit_code == 2


def test_all_mistakes_at_once() -> None:
    with pytest.raises(InventoryError) as caught:
        parse_inventory("{hosts: {a: {prot: 1, port: 0}}, master: b, colour: red}", source="lab.yaml")
    assert len(caught.value.problems) == 4
    assert all(line.startswith("lab.yaml: ") for line in str(caught.value).splitlines())


def test_a_whole_inventory() -> None:
    inventory = parse_inventory(GOOD, environ={"VENV": "/venv"})
    names = ["gpu-node1", "gpu-node2", "gpu03", "gpu04", "gpu05", "gpu06", "gpu07", "gpu08"]
    assert [host.name for host in inventory.hosts] == names
    assert inventory.hosts[3].address == "10.0.1.4"
    assert inventory.hosts[1].env == {"NCCL_DEBUG": "WARN", "X": "1"}
    assert inventory.hosts[0].python == "/venv/bin/python"
    assert inventory.hosts[0].user == "ubuntu"
    assert inventory.rendezvous.port == 29500
    assert inventory.rendezvous.interface is None
    assert inventory.spares == ("gpu08",)


def test_the_master_comes_first() -> None:
    inventory = parse_inventory("{hosts: [a, b, c], master: b}")
    assert [host.name for host in inventory.hosts] == ["b", "a", "c"]


def test_select() -> None:
    inventory = parse_inventory(GOOD, environ={"VENV": ""})

    def chosen(expression: str | None) -> list[str]:
        return [host.name for host in select(inventory, expression)]

    assert len(chosen(None)) == 7
    assert chosen("2") == ["gpu-node1", "gpu-node2"]
    assert chosen("gpu[04,06-07],gpu-node1") == ["gpu-node1", "gpu04", "gpu06", "gpu07"]
    assert chosen("gpu0[7-8]") == ["gpu07", "gpu08"]
    assert chosen("*node*") == ["gpu-node1", "gpu-node2"]
    with pytest.raises(UsageError, match="did you mean gpu-node1"):
        select(inventory, "gpu-nod1")
    with pytest.raises(UsageError, match="has 7 hosts"):
        select(inventory, "9")


KEYS = st.sampled_from(
    [
        "hosts",
        "defaults",
        "master",
        "spares",
        "outputs",
        "rendezvous",
        "env",
        "port",
        "address",
        "jump",
        "a[1-2]",
        "max_size",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


def parsed_or_refused(text: str) -> None:
    try:
        parse_inventory(text)
    except InventoryError as error:
        assert error.problems
        assert all(problem and problem.isprintable() for problem in error.problems)


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_no_text_makes_a_traceback(text: str) -> None:
    parsed_or_refused(text)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_no_structure_makes_a_traceback(value: dict[str, Any]) -> None:
    parsed_or_refused(yaml.safe_dump(value))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"hosts: {{a: {{port: 0x{'f' * 5000}}}}}", "hosts.a.port: a number of thousands of digits: expected"),
        (
            f"hosts: {{a: {{env: {{N: 0x{'f' * 5000}}}}}}}",
            "hosts.a.env.N: a number of thousands of digits: expected",
        ),
        (f"hosts: [a]\noutputs: {{max_size: '{'9' * 400}'}}", "outputs.max_size: '999"),
    ],
)
def test_a_number_beyond_all_measure_is_a_mistake_like_any_other(text: str, said: str) -> None:
    with pytest.raises(InventoryError) as refused:
        parse_inventory(text, source="hosts.yaml", environ={})
    assert said in str(refused.value)
