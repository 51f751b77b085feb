"""The embedded cluster without a hosts file: ``--hosts sandbox`` and ``--hosts sandbox:N``."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.core.inventory.embedded import embedded_hosts_file
from orchestrator.errors import UsageError
from orchestrator.local.hosts_file import read_inventory
from orchestrator.operations.cluster import sandbox_of


@pytest.mark.parametrize(("word", "names"), [("sandbox", ["node1", "node2"]), ("sandbox:1", ["node1"])])
def test_a_word_stands_for_hosts(
    word: str, names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inventory = read_inventory(Path(word))
    assert inventory.sandbox and [host.name for host in inventory.hosts] == names
    assert inventory.source == word
    here = sandbox_of(Path(word), inventory).folder
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert sandbox_of(Path(word), inventory).folder == here
    # A file of that name is a hosts file.
    Path(word).write_text("hosts: {mine: {}}")
    assert [host.name for host in read_inventory(Path(word)).hosts] == ["mine"]


@pytest.mark.parametrize("word", ["sandbox:0", "sandbox:65", "sandbox:", "sandbox:x", "sandbox:-1", "sandbox:٣"])
def test_a_number_of_hosts_that_is_none_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="expected a number of hosts from 1 to 64"):
        read_inventory(Path(word))


def test_other_words_stand_for_files() -> None:
    assert embedded_hosts_file("sandboxes") is None and embedded_hosts_file("hosts.yaml") is None
    with pytest.raises(UsageError, match=r"cannot read the hosts file sandbox\.yaml") as raised:
        read_inventory(Path("sandbox.yaml"))
    assert "orch init" in (raised.value.remedy or "") and "--hosts sandbox" in (raised.value.remedy or "")
