"""``orch init --from``: the file that it writes means the same as the other tool's list under ``--hosts``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.commands.init import init
from orchestrator.errors import UsageError
from orchestrator.local.hosts_file import read_inventory
from orchestrator.operations.setup.gathering import InitOptions
from orchestrator.ui.display import Display
from orchestrator.ui.inventory.questions import Questions
from tests.unit.inventory.test_foreign import RECORDED, home

__all__ = ["home"]
WRITTEN = Path("hosts.yaml")


def init_from(*words: str, source: Path) -> None:
    options = InitOptions(words, WRITTEN, source=str(source), check=False)
    assert init(options, Questions(False), Display()) == 0


@pytest.mark.parametrize("name", sorted(each.name for each in RECORDED.iterdir() if each.name != "accelerate"))
def test_the_written_file_means_what_the_list_means(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    init_from(source=RECORDED / name)
    listed, written = read_inventory(RECORDED / name), read_inventory(WRITTEN)
    assert written.hosts == listed.hosts
    assert written.rendezvous == listed.rendezvous and written.spares == listed.spares
    told = " ".join(capsys.readouterr().err.split())
    assert all(" ".join(note.split()) in told for note in listed.notes)


def test_a_list_that_lacks_a_machine_is_completed_by_its_name() -> None:
    with pytest.raises(UsageError, match="1 more address is missing → name the hosts as well: orch init HOST"):
        init_from(source=RECORDED / "accelerate")
    assert not WRITTEN.exists()
    init_from("192.168.20.2", source=RECORDED / "accelerate")
    written = read_inventory(WRITTEN)
    assert [host.address for host in written.hosts] == ["192.168.20.1", "192.168.20.2"]


def test_a_requirements_file_with_torch_is_written_on_request() -> None:
    options = InitOptions(("10.0.0.1",), WRITTEN, check=False, install_torch=True)
    assert init(options, Questions(False), Display()) == 0
    host = read_inventory(WRITTEN).hosts[0]
    assert host.environment == "requirements.txt"
    packages = Path("requirements.txt").read_text()
    assert "\ntorch\ntorchvision\n" in packages
    # A second time, the file is there and stays.
    assert init(replace(options, force=True), Questions(False), Display()) == 0
    Path("requirements.txt").write_text("numpy\n")
    with pytest.raises(UsageError, match=r"requirements\.txt exists, and does not name torch → add a line: torch"):
        init(replace(options, force=True), Questions(False), Display())
    assert Path("requirements.txt").read_text() == "numpy\n"
