"""New hosts files: what a user types, what is proposed from facts, and text that parses back to the same hosts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.core.checks.facts import Address
from orchestrator.core.inventory.draft.compose import Draft, compose, hoisted
from orchestrator.core.inventory.draft.proposal import (
    better_name,
    interfaces,
    interpreters,
    machine,
    own_interpreters,
    summary,
)
from orchestrator.core.inventory.draft.typed import typed_hosts
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.inventory.parsing import parse_inventory
from orchestrator.errors import InventoryError, UsageError
from orchestrator.local import drafts
from orchestrator.protocol.facts import Interpreter
from tests.unit.checks.facts import DISK, GPU, MEMORY, SYSTEM, node

TEXT = st.text(st.characters(exclude_characters="$\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
KEYS = st.fixed_dictionaries(
    {},
    optional={
        "user": st.sampled_from(["root", "u", "DOMAIN\\me", "no"]),
        "port": st.integers(1, 65535),
        "python": TEXT,
        "workdir": TEXT,
        "jump": st.lists(st.sampled_from(["gate", "u@gate:22", "[fd00::1]:22"]), min_size=1, max_size=2),
        "interface": st.sampled_from(["eth0", "ib0:1", "0", "1e3"]),
        "gpus": st.integers(0, 8),
        "env": st.dictionaries(st.sampled_from(["A", "NO", "Y"]), st.one_of(TEXT, st.integers(), st.booleans())),
    },
)


def inventory_of(text: str) -> Any:
    """Return the inventory of a text, or its mistakes."""
    try:
        return parse_inventory(text)
    except InventoryError as error:
        return error.problems


@settings(deadline=None)
@given(
    st.dictionaries(NAMES, KEYS, min_size=1, max_size=4),
    KEYS,
    st.dictionaries(st.sampled_from(["cluster", "grace"]), st.sampled_from(["x", 3]), max_size=2),
    st.lists(st.text(), max_size=4),
)
def test_what_is_written_parses_to_the_same_hosts(
    hosts: dict[str, Any], defaults: dict[str, Any], top: dict[str, Any], comments: list[str]
) -> None:
    draft = Draft(hosts, defaults, top, dict(zip(hosts, comments, strict=False)))
    wanted = inventory_of(yaml.safe_dump(draft.document(), sort_keys=False))
    assert inventory_of(compose(draft, "hosts.schema.json")) == wanted
    if not isinstance(wanted, tuple):
        assert inventory_of(compose(hoisted(draft))) == wanted


@pytest.mark.parametrize(
    "said", ["x\nmaster: evil", "x\rmaster: evil", "x\x85master: evil", "x\u2028master: evil"]
)
def test_what_a_host_says_stays_a_comment(said: str) -> None:
    text = compose(Draft({"a": {}}, comments={"a": said}))
    assert yaml.safe_load(text) == {"hosts": {"a": {}}}
    assert len([line for line in text.splitlines() if "evil" in line]) == 1


def test_a_file_as_it_is_written() -> None:
    hosts = {
        "a": {"address": "10.0.0.1", "user": "u"},
        "b": {"address": "10.0.0.2", "user": "u", "env": {"A": "x\ny"}},
    }
    draft = Draft(hosts, {"python": "~/p"}, {"master": "b", "cluster": "lab"}, {"a": "Debian", "b": "Debian"})
    assert compose(hoisted(draft), "s.json") == (
        "# yaml-language-server: $schema=s.json\n"
        "# The machines of a cluster. orch hosts shows what each key comes to; orch doctor checks them.\n"
        "cluster: lab\n\n"
        "# Keys of every host. A host's own value takes precedence.\n"
        "defaults:\n"
        "  # The interpreter for training. By default python3.\n"
        "  python: ~/p\n"
        "  # The user to log in as. By default ~/.ssh/config's, else your user name on this machine.\n"
        "  user: u\n\n"
        "# The hosts, in node_rank order.\n"
        "hosts:\n"
        "  # Debian\n"
        "  a: {address: 10.0.0.1}\n"
        '  b: {address: 10.0.0.2, env: {A: "x\\ny"}}\n\n'
        "# The host with node_rank 0. By default the first that is no spare.\n"
        "master: b\n"
    )


def test_long_hosts_have_a_line_for_each_key() -> None:
    text = compose(Draft({"a": {"env": {f"VARIABLE{n}": "value" for n in range(8)}, "port": 22}}))
    assert "\n  a:\n    env:\n      VARIABLE0: value\n" in text and "\n    port: 22\n" in text


@pytest.mark.parametrize(
    ("typed", "hosts"),
    [
        ("node1", {"node1": {}}),
        ("a b,c , d", {"a": {}, "b": {}, "c": {}, "d": {}}),
        ("root@10.0.0.3:2222", {"10.0.0.3": {"user": "root", "port": 2222}}),
        ("ssh://root@a:22/", {"a": {"user": "root", "port": 22}}),
        ("gpu[01,03-04]", {"gpu01": {}, "gpu03": {}, "gpu04": {}}),
        ("u@gpu[1-2]:22", {"gpu1": {"user": "u", "port": 22}, "gpu2": {"user": "u", "port": 22}}),
        (
            "[fd00::1]:22 fd00::2",
            {"fd00--1": {"address": "fd00::1", "port": 22}, "fd00--2": {"address": "fd00::2"}},
        ),
        ("a a b", {"a": {}, "b": {}}),
        ("a:22 a:23", {"a": {"port": 22}, "a-2": {"address": "a", "port": 23}}),
        ("known known:23", {"known-2": {"address": "known", "port": 23}}),
        ("logs _x", {"host-logs": {"address": "logs"}, "x": {"address": "_x"}}),
        ("", {}),
    ],
)
def test_what_a_user_types(typed: str, hosts: dict[str, Any]) -> None:
    found = typed_hosts(typed, {"known": {}})
    assert found == hosts
    if found:
        assert [host.name for host in parse_inventory(json.dumps({"hosts": found})).hosts] == list(hosts)


@pytest.mark.parametrize(
    "typed", ["a;b", "-oProxyCommand=x", "a:0", "a:99999", "$(x)", "gpu[1-", "gpu[9-1]", "a@"]
)
def test_what_is_no_host(typed: str) -> None:
    with pytest.raises(UsageError) as caught:
        typed_hosts(f"fine {typed}")
    assert typed in str(caught.value) or typed.strip("[") in str(caught.value)
    assert "\n" not in str(caught.value)


def python(path: str, torch: str | None) -> Interpreter:
    return Interpreter(path=path, version="3.11.2", torch=torch)


def test_the_interpreter_with_the_newest_torch_that_all_hosts_have() -> None:
    a = node("a", {"home": "/home/u", "python": python("python3", None)}, interpreters=(
        python("/usr/bin/python3", None), python("/home/u/v/bin/python", "2.10.0"), python("/o/p", "2.9.1+cu128"), python("/z", "3.0"),
    ))  # fmt: skip
    b = node("b", {"home": "/srv/r", "python": python("python3", None)}, interpreters=(
        python("/o/p", "2.9.1+cu128"), python("/srv/r/v/bin/python", "2.10.0"), python("/differs", "2.11"), python("/$x", "2.11"),
    ))  # fmt: skip
    assert interpreters({"a": a, "b": b}) == ["~/v/bin/python", "/o/p"]
    assert own_interpreters({"a": a, "b": b}) == {"a": "/z", "b": "/differs"}
    assert "/$$x" in interpreters({"b": b})
    c = node("c", {"python": python("python3", None)}, interpreters=(python("/usr/bin/python3", None),))
    assert interpreters({"a": a, "c": c}) == [] and own_interpreters({"c": c}) == {} and interpreters({}) == []


def test_equal_versions_come_before_newer_ones_that_differ() -> None:
    a = node(
        "a", {"python": python("python3", None)}, interpreters=(python("/new", "3.1"), python("/old", "2.5.1"))
    )
    b = node(
        "b", {"python": python("python3", None)}, interpreters=(python("/new", "3.0"), python("/old", "2.5.1"))
    )
    assert interpreters({"a": a, "b": b}) == ["/old", "/new"]


def test_the_interfaces_of_the_network_that_all_share() -> None:
    hosts = [Host("a", "a"), Host("b", "b")]
    a, b = node("a"), node("b")
    assert interfaces(hosts, {"a": a, "b": b}) == {"a": "eth0", "b": "eth0"}
    renamed = node("b", {"addresses": (Address("lo", "127.0.0.1", 8), Address("ens3", "10.0.0.2", 24))})
    assert interfaces(hosts, {"a": a, "b": renamed}) == {"a": "eth0", "b": "ens3"}
    elsewhere = node("b", {"addresses": (Address("eth0", "10.9.0.2", 24),), "ssh_address": "10.9.0.2"})
    assert interfaces(hosts, {"a": a, "b": elsewhere}) == {}
    evil = node("b", {"addresses": (Address("eth0: {x", "10.0.0.2", 24),)})
    assert interfaces(hosts, {"a": a, "b": evil}) == {}
    assert interfaces(hosts, {"a": a}) == {} and interfaces([], {}) == {}


def test_a_numeric_address_gets_the_name_that_the_host_has() -> None:
    facts = node("b", {"hostname": "gpu7.lab"})
    assert better_name("10.0.0.2", "10.0.0.2", facts, ["10.0.0.2", "x"]) == "gpu7"
    assert better_name("10.0.0.2", "10.0.0.2", facts, ["10.0.0.2", "gpu7"]) == "gpu7-2"
    assert better_name("fd00--2", "fd00::2", facts, ["fd00--2"]) == "gpu7"
    assert better_name("alias", "alias", facts, ["alias"]) == "alias"
    for own in ("localhost", "localhost.localdomain", "", "10.0.0.2"):
        assert better_name("10.0.0.2", "10.0.0.2", node("b", {"hostname": own}), []) == "10.0.0.2"


def test_a_host_in_a_few_words() -> None:
    facts = node(
        "a", {"gpus": 2}, memory=MEMORY, gpus=(GPU, GPU), disks={"workdir": DISK}, interpreters=(python("/v", "2.9"),),
    )  # fmt: skip
    assert machine(facts) == "Debian, 2 cores, 107 GB, 2 GPUs (H100)"
    assert summary(facts) == f"{machine(facts)}, Python 3.11.2, torch 2.9 (/v), 1100 GB free"
    bare = node(
        "a", {"python": Interpreter(path="python3", error="no such program")}, system=SYSTEM.replace(os="")
    )
    assert summary(bare) == "Linux, no GPU, no Python, no torch"


def test_a_file_is_written_whole_and_never_over_another(tmp_path: Path) -> None:
    file = tmp_path / "hosts.yaml"
    drafts.write_new(file, "one", replace=False)
    with pytest.raises(UsageError, match="exists"):
        drafts.write_new(file, "two", replace=False)
    assert file.read_text() == "one" and file.stat().st_mode & 0o600 == 0o600
    link = tmp_path / "link"
    link.symlink_to(file)
    drafts.write_new(link, "three", replace=True)
    assert file.read_text() == "three" and link.is_symlink()
    with pytest.raises(UsageError, match="cannot be written: No such file"):
        drafts.write_new(tmp_path / "no" / "x", "", replace=False)
    with pytest.raises(UsageError, match="there is no folder"):
        drafts.refuse_existing(tmp_path / "no" / "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hosts.yaml", "link"]


def test_a_schema_that_is_not_ours_stays(tmp_path: Path) -> None:
    hosts, schema = tmp_path / "hosts.yaml", tmp_path / "hosts.schema.json"
    assert drafts.may_write_schema(hosts)
    drafts.write_schema(hosts)
    assert drafts.may_write_schema(hosts) and json.loads(schema.read_text())["$id"] == "urn:orch:hosts-file"
    for other in ("{}", "[]", "not json"):
        schema.write_text(other)
        assert not drafts.may_write_schema(hosts)
    schema.unlink()
    schema.symlink_to(tmp_path / "nowhere")
    assert not drafts.may_write_schema(hosts)
