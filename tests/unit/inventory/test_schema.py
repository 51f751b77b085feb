"""The JSON Schema of hosts files has the parser's keys, and accepts whatever the parser accepts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from docs import make
from orchestrator.core.inventory import schema
from orchestrator.core.inventory.parsing import parse_inventory
from orchestrator.core.inventory.reading import Reader
from orchestrator.errors import InventoryError
from tests.conftest import ROOT

FINGERPRINT = "SHA256:" + "a" * 43
KEY = f"ssh-ed25519 {'A' * 67}="
# A file with every mapping that the parser reads.
EVERYTHING = """
defaults: {port: 22}
hosts: {a: {port: 22, container: {image: x}}}
rendezvous: {port: 1}
outputs: {max_log: 1}
data: [{path: x}]
"""
# Where the schema keeps the keys of each of them, by the path that the parser reads.
TABLES = {
    "": schema.TOP_KEYS,
    "defaults": schema.SHARED_KEYS,
    "hosts.a": {**schema.OWN_KEYS, **schema.SHARED_KEYS},
    "hosts.a.container": schema.CONTAINER_KEYS,
    "rendezvous": schema.RENDEZVOUS_KEYS,
    "outputs": schema.OUTPUTS_KEYS,
    "data[0]": schema.DATA_KEYS,
}
VALUES: list[Any] = [
    *(None, True, 0, 1, 22, 1025, 65535, 65536, -1, 1.5, 604800, 604801),
    *("", " ", "a", "a b", "eth0", "-x", "10.0.0.1", "fd00::1", "fe80::1%eth0", "u@h:22", "h:22", "[fd00::1]:22"),
    *("DOMAIN\\user", "a;b", "$X", "${HOME}", "${NO:-10.0.0.9}", "~/.ssh/key", "500 MB", "1.5GiB", "x" * 70),
    *(FINGERPRINT, KEY, f"{KEY} me@here", "static", "c10d", "auto", "n", "a\nb"),
    *(
        [],
        ["n"],
        ["a"],
        ["u@h:22", "h"],
        ["a b"],
        ["WANDB_*", "A"],
        ["*"],
        [1],
        [None],
        [{"path": "x"}],
        [{"path": "x", "to": "~/y"}],
        [{"to": "x"}],
    ),
    *(
        {},
        {"A": 1},
        {"A": "x", "B": True, "C": 1.5},
        {"1": 1},
        {"A": [1]},
        {"A": None},
        {"n": None},
        {"n[1-2]": {}},
    ),
]


def valid(document: Any) -> bool:
    return Draft7Validator(schema.hosts_schema()).is_valid(document)


def parses(document: Any) -> bool:
    try:
        parse_inventory(json.dumps(document), environ={"HOME": "/home/me"})
    except InventoryError:
        return False
    return True


def test_the_schema_has_the_keys_of_the_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    read: dict[str, set[str]] = {}
    usual = Reader.mapping

    def noting(self: Reader, value: Any, path: str, known: tuple[str, ...]) -> dict[str, Any]:
        read.setdefault(path, set()).update(known)
        return usual(self, value, path, known)

    monkeypatch.setattr(Reader, "mapping", noting)
    parse_inventory(EVERYTHING)
    assert read == {path: set(table) for path, table in TABLES.items()}


def documents(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a hosts file for each key, with this value."""
    base: dict[str, Any] = {"hosts": {"n": {}}}
    for key in TABLES["hosts.a"]:
        yield f"hosts.n.{key}", {"hosts": {"n": {key: value}}}
    for key in schema.CONTAINER_KEYS:
        yield f"container.{key}", {"hosts": {"n": {"container": {"image": "x", key: value}}}}
    for key in schema.TOP_KEYS:
        yield key, {**base, key: value}
    for name in ("defaults", "rendezvous", "outputs"):
        for key in TABLES[name]:
            yield f"{name}.{key}", {**base, name: {key: value}}
    for key in schema.DATA_KEYS:
        yield f"data.{key}", {**base, "data": [{"path": "x", key: value}]}


@pytest.mark.parametrize("value", VALUES, ids=lambda value: ascii(value)[:30])
def test_the_schema_accepts_what_the_parser_accepts(value: Any) -> None:
    """The schema may pass a text that the parser refuses, since not every rule is a pattern; it misses no type."""
    for path, document in documents(value):
        if parses(document):
            assert valid(document), path
        elif not isinstance(value, str) and not (
            isinstance(value, list) and all(isinstance(e, str) for e in value)
        ):
            assert not valid(document), path


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hosts: {}",
        "hosts: []",
        "cluster: x",
        "hosts: {a: {prot: 22}}",
        "hosts: {a: {port: '22'}}",
        "hosts: {a: {port: 0}}",
        "hosts: {a: {address: 'x;y'}}",
        "hosts: {a: {fabric_address: node1}}",
        "hosts: {a: {interface: '-x'}}",
        "hosts: {a: {host_key: abc}}",
        "hosts: {a b: {}}",
        "hosts: {a: {}}\ndefaults: {address: x}",
        "hosts: {a: {}}\nrendezvous: {backend: etcd}",
        "hosts: {a: {}}\ndata: [{to: x}]",
        "hosts: {a: {}}\noutputs: {max_size: 5 bananas}",
    ],
)
def test_what_is_wrong_does_not_validate(text: str) -> None:
    document = yaml.safe_load(text)
    assert not valid(document) and not parses(document)


def examples() -> Iterator[tuple[str, str]]:
    """Yield the hosts files of the pages, and the repository's own."""
    yield "hosts.yaml", (ROOT / "hosts.yaml").read_text()
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for number, text in enumerate(re.findall(r"(?ms)^```yaml\n(.*?)^```", page.read_text())):
            yield f"{page.name}-{number}", text


@pytest.mark.parametrize("text", [text for _, text in examples()], ids=[name for name, _ in examples()])
def test_the_examples_validate(text: str) -> None:
    document = yaml.safe_load(text)
    # Some show a few keys only.
    assert valid(document if "scheduler" in document else {"hosts": {"a": {}}, **document})


def test_the_page_has_an_example() -> None:
    assert any(name.startswith("inventory.md") for name, _ in examples())


def test_the_file_in_docs_is_up_to_date() -> None:
    for file, text in make.files().items():
        assert file.read_text() == text, "run python -m docs.make"
    Draft7Validator.check_schema(schema.hosts_schema())


def test_every_key_is_described() -> None:
    for path, table in TABLES.items():
        for key, about in table.items():
            assert about["description"].endswith("."), f"{path}.{key}"


def test_the_page_names_every_key() -> None:
    page = Path(ROOT / "docs" / "inventory.md").read_text()
    for path in ("", "hosts.a", "rendezvous", "outputs"):
        for key in TABLES[path]:
            assert f"`{key}`" in page, f"{path}.{key}"
