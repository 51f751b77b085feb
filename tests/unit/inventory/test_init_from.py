"""``orch init --from``: the file that it writes means the same as the other tool's list under ``--hosts``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.commands.init import init
from orchestrator.core.inventory.hosts import Host
from orchestrator.errors import AuthenticationFailed, UsageError
from orchestrator.local.hosts_file import read_inventory
from orchestrator.operations.setup import gathering
from orchestrator.operations.setup.completing import Completing
from orchestrator.operations.setup.gathering import Gathered, InitOptions
from orchestrator.operations.setup.trial import Trial
from orchestrator.protocol.facts import Interpreter
from orchestrator.ui.display import Display
from orchestrator.ui.inventory.questions import Questions
from tests.unit.checks.facts import node
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


def test_keys_without_a_value_are_left_out() -> None:
    keys = ("defaults", "spares", "master", "rendezvous", "data", "outputs")
    Path("first.yaml").write_text("hosts: {a: , b: }\n" + "".join(f"{key}:\n" for key in keys))
    listed = read_inventory(Path("first.yaml"))
    init_from(source=Path("first.yaml"))
    assert read_inventory(WRITTEN).hosts == listed.hosts


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
    clash = replace(options, force=True, keys={"python": "python3"})
    with pytest.raises(
        UsageError, match="--install-torch: python: or env: is given as well → leave one of them out"
    ):
        init(clash, Questions(False), Display())


class Agreeing(Questions):
    """A user who takes every default."""

    def __init__(self) -> None:
        super().__init__(True)
        self.asked: list[str] = []

    def confirm(self, question: str, default: bool) -> bool:
        self.asked.append(question)
        return default

    def text(self, question: str, default: str = "") -> str:
        self.asked.append(question)
        return default


@pytest.mark.parametrize("here", [None, "numpy\n", "numpy\ntorch>=2.4\n"])
def test_where_no_host_has_torch_the_user_is_asked_for_packages(here: str | None) -> None:
    if here:
        Path("requirements.txt").write_text(here)
    bare = Interpreter(path="python3", version="3.11.2", torch=None)
    found = Gathered({"a": {}}, facts={"a": node("a", {"python": bare}, interpreters=(bare,))})
    questions = Agreeing()
    draft = Completing(found, InitOptions(("a",), WRITTEN), questions, Display()).complete()
    if here is None:
        assert questions.asked[0] == "write requirements.txt with torch and torchvision, for orch to install?"
        assert draft.defaults["env"] == "requirements.txt" and found.packages is not None
    else:
        # A file that is there is used if it names torch, and left alone if it does not.
        assert questions.asked[0].startswith("file with packages (") and found.packages is None
        assert draft.defaults.get("env") == ("requirements.txt" if "torch" in here else None)


def test_a_host_that_is_tried_again_gets_its_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("first.yaml").write_text("hosts: {10.0.0.1: , 10.0.0.2: , kept: {address: 10.0.0.3}}\nmaster: 10.0.0.2\n")

    def tried(hosts: list[Host], *rest: object) -> dict[str, Trial]:
        return {host.name: Trial(host, node("a", {"hostname": f"gpu{host.address[-1]}.lab"})) for host in hosts}

    monkeypatch.setattr(gathering, "try_hosts", tried)
    options = InitOptions((), WRITTEN, source="first.yaml")
    assert init(options, Questions(False), Display()) == 0
    written = read_inventory(WRITTEN)
    assert [(host.name, host.address) for host in written.hosts] == [
        ("gpu2", "10.0.0.2"),
        ("gpu1", "10.0.0.1"),
        ("kept", "10.0.0.3"),
    ]
    assert written.master.name == "gpu2"


@pytest.mark.parametrize(
    ("saying", "lines"),
    [
        (lambda name: f"no {name}", "✗ failed  a,b: no {a,b} → orch keys\n"),
        (
            lambda name: {"a": "no key", "b": "no login"}[name],
            "✗ failed  a: no key\n✗ failed  b: no login\n→ orch keys\n",
        ),
    ],
)
def test_a_remedy_for_all_hosts_is_said_once(
    saying: Callable[[str], str], lines: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(hosts: list[Host], *rest: object) -> dict[str, Trial]:
        return {
            host.name: Trial(host, error=AuthenticationFailed(saying(host.name), remedy="orch keys"))
            for host in hosts
        }

    monkeypatch.setattr(gathering, "try_hosts", refused)
    options = InitOptions(("a", "b"), WRITTEN, failing="keep")
    assert init(options, Questions(False), Display()) == 0
    told = capsys.readouterr().err
    assert lines in told
