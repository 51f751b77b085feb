"""``orch init`` without a network: options, files, and what becomes of hosts that fail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.cli.program import cli
from orchestrator.core.inventory.foreign.imported import Imported
from orchestrator.core.inventory.hosts import Host
from orchestrator.errors import (
    AuthenticationFailed,
    ConnectTimeout,
    HostErrors,
    HostKeyUnknown,
    OrchError,
    UsageError,
)
from orchestrator.local.foreign import read_foreign
from orchestrator.local.hosts_file import read_inventory
from orchestrator.operations.setup import gathering
from orchestrator.operations.setup.completing import Completing, next_steps
from orchestrator.operations.setup.gathering import Gathering, InitOptions
from orchestrator.operations.setup.trial import Trial
from orchestrator.protocol.facts import Interpreter
from orchestrator.ui.inventory.questions import Questions
from orchestrator.ui.quiet import QuietDisplay
from tests.conftest import ROOT, Orch
from tests.unit.checks.facts import node

NONE = Interpreter(path="python3", version="3.11.2")


class Answering(Questions):
    """Gives prepared answers, and notes the questions."""

    def __init__(self, *answers: str) -> None:
        super().__init__(able=True)
        self.answers = list(answers)
        self.asked: list[str] = []
        self.defaults: list[str] = []

    def text(self, question: str, default: str = "", hint: Any = ()) -> str:
        self.asked.append(question)
        self.defaults.append(default)
        return (self.answers.pop(0) if self.answers else "") or default

    def choose(self, question: str, choices: Any, default: str) -> str:
        answer = self.text(question, default)
        assert answer in choices
        return answer

    def confirm(self, question: str, default: bool) -> bool:
        return self.text(question, "y" if default else "n") == "y"


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The facts or the error of each host, by name; with a fingerprint, what counts once it is accepted."""
    outcomes: dict[str, Any] = {}

    def tried(hosts: list[Host], accepted: dict[str, str], *_: Any) -> dict[str, Trial]:
        found = {}
        for host in hosts:
            outcome = outcomes.get(f"{host.name} {accepted.get(host.name)}", outcomes[host.name])
            failed = isinstance(outcome, OrchError)
            found[host.name] = Trial(host, error=outcome) if failed else Trial(host, facts=outcome)
        return found

    monkeypatch.setattr(gathering, "try_hosts", tried)
    return outcomes


def options(*words: str, **more: Any) -> InitOptions:
    return InitOptions(words, Path("hosts.yaml"), **more)


def gathered(asked: InitOptions, questions: Questions | None = None) -> gathering.Gathered:
    return Gathering(asked, questions or Questions(False), QuietDisplay()).gather()


def document(asked: InitOptions, questions: Questions | None = None) -> dict[str, Any]:
    """Return the whole file that comes of it."""
    able = questions or Questions(False)
    return Completing(gathered(asked, able), asked, able, QuietDisplay()).complete().document()


def test_without_a_terminal_a_host_that_fails_stops_everything(network: dict[str, Any]) -> None:
    network |= {"a": node("a"), "b": ConnectTimeout("b did not answer", host="b")}
    with pytest.raises(HostErrors, match="b: b did not answer"):
        gathered(options("a", "b"))
    assert list(gathered(options("a", "b", failing="drop")).hosts) == ["a"]
    kept = gathered(options("b", "a", failing="keep"))
    assert (list(kept.hosts), list(kept.facts), list(kept.errors)) == (["b", "a"], ["a"], ["b"])


def test_an_unknown_key_is_recorded_only_if_it_is_the_one_that_was_named(network: dict[str, Any]) -> None:
    network |= {"a": HostKeyUnknown("not known", fingerprint="SHA256:x", host="a"), "a SHA256:x": node("a")}
    for fingerprints in ((), ("SHA256:y",)):
        with pytest.raises(HostErrors, match="not known"):
            gathered(options("a", fingerprints=fingerprints))
    assert list(gathered(options("a", fingerprints=("SHA256:y", "SHA256:x"))).hosts) == ["a"]


@pytest.mark.parametrize(("answer", "hosts"), [("yes", "ab"), ("no", ""), ("each", "b"), ("", "")])
def test_several_unknown_keys_are_one_question(network: dict[str, Any], answer: str, hosts: str) -> None:
    for name in "ab":
        network[name] = HostKeyUnknown("not known", fingerprint=f"SHA256:{name}", host=name)
        network[f"{name} SHA256:{name}"] = node(name)
    asked = Answering(answer, *(["n", "SHA256:b"] if answer == "each" else []))
    found = Gathering(options("a", "b", failing="drop"), asked, QuietDisplay())
    found._add({"a": {}, "b": {}})
    assert "".join(found.found.hosts) == hosts


def test_a_jump_hosts_key_comes_up_before_the_hosts_own(network: dict[str, Any]) -> None:
    own = HostKeyUnknown("own", fingerprint="SHA256:own", host="a")
    network |= {"a": HostKeyUnknown("jump", fingerprint="SHA256:jump", host="a"), "a SHA256:jump": own}
    network["a SHA256:own"] = node("a")
    questions = Answering("yes", "yes")
    assert list(gathered(options("a"), questions).hosts) == ["a"] and len(questions.asked) == 2


def test_hosts_stay_in_the_order_in_which_they_were_typed(network: dict[str, Any]) -> None:
    network |= {name: node(name) for name in "bcd"}
    network["a"] = AuthenticationFailed("refused", host="a")
    # a is changed to d; an empty line ends.
    found = gathered(options(), Answering("a b", "change", "d", "c", ""))
    assert list(found.hosts) == ["d", "b", "c"]


def test_where_no_host_has_torch_a_file_with_packages_is_proposed(
    network: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network["a"] = node("a", {"python": NONE})
    assert "defaults" not in document(options("a"))
    Path("requirements.txt").write_text("numpy\ntorchmetrics\n")
    assert "defaults" not in document(options("a"))
    Path("requirements.txt").write_text("numpy\ntorch>=2.4\n")
    assert document(options("a"))["defaults"] == {"env": "requirements.txt"}
    assert "defaults" not in document(options("a"), Answering("none"))
    Path("other").mkdir()
    elsewhere = InitOptions(("a",), Path("other/hosts.yaml"))
    assert document(elsewhere, Answering("no.txt", ""))["defaults"] == {"env": "../requirements.txt"}
    assert document(options("a", keys={"env": str(tmp_path / "requirements.txt")}))["defaults"] == {
        "env": str(tmp_path / "requirements.txt")
    }
    assert document(options("a", keys={"python": "/p"}))["defaults"] == {"python": "/p"}


def test_hosts_with_different_interpreters_get_their_own(network: dict[str, Any]) -> None:
    for name in "abc":
        mine = Interpreter(path=f"/{name}/python", version="3.11.2", torch="2.9")
        network[name] = node(name, {"python": NONE}, interpreters=(mine,) if name != "c" else ())
    found = document(options("a", "b", "c"))
    assert found["hosts"] == {"a": {"python": "/a/python"}, "b": {"python": "/b/python"}, "c": {}}
    assert found["rendezvous"] == {"interface": "eth0"} and found["master"] == "a"


def test_options_answer_questions(network: dict[str, Any]) -> None:
    network |= {name: node(name) for name in "ab"}
    asked = options("a", "b", interface="auto", master="b", cluster="lab", keys={"user": "u", "port": 22})
    found = document(asked)
    assert (found["cluster"], found["master"], found["rendezvous"]) == ("lab", "b", {"interface": "auto"})
    assert found["defaults"] == {"user": "u", "port": 22, "python": "/py"}


def test_the_next_commands(network: dict[str, Any]) -> None:
    network |= {"a": node("a"), "b": AuthenticationFailed("refused", host="b")}
    found = gathered(options("a", "b", failing="keep"))
    assert [command for command, _ in next_steps(found, Path("hosts.yaml"))] == [
        "orch keys", "orch init --from hosts.yaml --force", "orch doctor", "orch run hello-ddp",
    ]  # fmt: skip
    assert next_steps(gathered(options("a")), Path("my lab.yaml"))[0][0] == "orch doctor --hosts 'my lab.yaml'"


def test_without_a_check_nothing_is_dialled(local_orch: Orch) -> None:
    done = local_orch("init", "gpu[1-2]", "u@x:22", "--no-check", "--output", "lab.yaml", "--no-schema")
    assert done.returncode == 0 and "orch doctor --hosts lab.yaml" in done.stderr, done.stderr
    assert [path.name for path in local_orch.folder.glob("*")] == ["lab.yaml"]
    written = yaml.safe_load((local_orch.folder / "lab.yaml").read_text())
    assert written["hosts"] == {"gpu1": {}, "gpu2": {}, "x": {"user": "u", "port": 22}}
    assert "yaml-language-server" not in (local_orch.folder / "lab.yaml").read_text()


WRONG: list[tuple[list[str], str]] = [
    ([], "no hosts given → orch init HOST..., or orch init --from FILE"),
    (["a;b"], "'a;b' is no host → type a name, user@host or user@host:port"),
    (["gpu[3-1]"], "'gpu[3-1]': [3-1] runs backwards"),
    (["a", "--user", "x;y"], "hosts.yaml: defaults.user: 'x;y': expected a user name"),
    (["a", "--master", "b"], "hosts.yaml: master: 'b': expected the name of a host"),
    (["a", "--interface", "-x"], "hosts.yaml: rendezvous.interface: '-x': expected a word"),
    (["a", "--cluster", "a b"], "hosts.yaml: cluster: 'a b': expected letters"),
    (["a", "--output", "no/hosts.yaml"], "no/hosts.yaml cannot be written: there is no folder no"),
    (["a", "--python", ""], "hosts.yaml: defaults.python: '': expected text"),
    (["a", "--env", "x.txt"], "x.txt: there is no such file: expected a file with packages"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_what_is_wrong_is_one_line_and_writes_nothing(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OrchError) as caught:
        cli.main(["init", "--no-check", *words], standalone_mode=False)
    assert str(caught.value).startswith(said) and "\n" not in str(caught.value)
    assert caught.value.exit_code == 2 and not list(tmp_path.iterdir())


def test_a_file_that_exists_is_replaced_by_force_only(local_orch: Orch) -> None:
    file = local_orch.folder / "hosts.yaml"
    file.write_text("hosts: [mine]\n")
    done = local_orch("init", "a", "--no-check")
    assert done.returncode == 2 and file.read_text() == "hosts: [mine]\n" and "--force" in done.stderr
    assert local_orch("init", "a", "--no-check", "--force").returncode == 0
    assert list(yaml.safe_load(file.read_text())["hosts"]) == ["a"]


@pytest.mark.parametrize(
    "file", sorted((ROOT / "tests" / "recorded" / "hosts").iterdir()), ids=lambda file: file.name
)
def test_another_tools_file_becomes_the_inventory_that_it_is_read_as(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    words = ["init", "--no-check", "--from", str(file)]
    if read_foreign(file).incomplete:
        with pytest.raises(UsageError, match="missing → name the hosts as well"):
            cli.main(words, standalone_mode=False)
        words.append("further")
        assert cli.main(words, standalone_mode=False) == 0
        assert [host.name for host in read_inventory(Path("hosts.yaml")).hosts][1:] == ["further"]
        return
    assert cli.main(words, standalone_mode=False) == 0
    written, read = read_inventory(Path("hosts.yaml")), read_inventory(file)
    assert (written.hosts, written.master, written.rendezvous) == (read.hosts, read.master, read.rendezvous)
    assert not written.foreign


def test_some_hosts_of_another_tools_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list").write_text("u@gpu1:2222\ngpu2\nweb\n")
    words = ["init", "--no-check", "--from", "list", "--nodes", "gpu*", "--user", "me", "extra", "gpu2"]
    assert cli.main(words, standalone_mode=False) == 0
    written = yaml.safe_load(Path("hosts.yaml").read_text())
    assert written["hosts"] == {"gpu1": {"port": 2222}, "gpu2": {}, "extra": {}}
    assert written["defaults"] == {"user": "me"}


def test_a_master_that_is_left_out_is_no_master(network: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    top = {"master": "a", "spares": ["b", "d"], "grace": 3}
    monkeypatch.setattr(
        gathering, "read_hosts", lambda _: Imported("list", {"a": {}, "b": {}, "c": {}, "d": {}}, {}, top)
    )
    network |= {"a": ConnectTimeout("a did not answer", host="a"), "b": node("b"), "c": node("c")}
    network["d"] = ConnectTimeout("d did not answer", host="d")
    found = document(options(source="x", failing="drop"))
    assert list(found["hosts"]) == ["b", "c"]
    assert (found["spares"], found["grace"]) == (["b"], 3) and found["master"] == "c"


def test_a_hosts_file_is_tried_again_and_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = (
        'hosts: {"gpu[1-2]": {address: "10.0.0.[1-2]", user: u}, web: , v6: {address: "fd00::1"}}\n'
        'spares: ["gpu[2]"]\ngrace: 3\ndefaults: {env: {A: "${HOME}$$"}}\n'
    )
    Path("hosts.yaml").write_text(text)
    before = read_inventory(Path("hosts.yaml"))
    words = ["init", "--no-check", "--from", "hosts.yaml", "--workdir", "~/w"]
    with pytest.raises(UsageError, match="exists → pass --add to add hosts to it, --force"):
        cli.main(words, standalone_mode=False)
    assert cli.main([*words, "--force"], standalone_mode=False) == 0
    after = read_inventory(Path("hosts.yaml"))
    assert after.hosts == tuple(replace(host, workdir="~/w") for host in before.hosts)
    assert (after.spares, after.grace) == (before.spares, before.grace)
    Path("hosts.yaml").write_text("sandbox: true\nhosts: [a]\n")
    with pytest.raises(UsageError, match="embedded cluster"):
        cli.main([*words, "--force"], standalone_mode=False)


def test_several_hosts_that_fail_are_one_question(network: dict[str, Any]) -> None:
    network |= {name: AuthenticationFailed("refused", host=name) for name in "abc"}
    network["d"] = node("d")
    questions = Answering("a b c d", "", "")
    found = gathered(options(), questions)
    assert (list(found.hosts), list(found.errors)) == (["a", "b", "c", "d"], ["a", "b", "c"])
    assert questions.asked == ["hosts", "what now with these 3 hosts?", "hosts (an empty line ends)"]
    questions = Answering("a b d", "each", "drop", "change", "d", "")
    assert list(gathered(options(), questions).hosts) == ["d"]
    with pytest.raises(HostErrors):
        gathered(options(failing="stop"), Answering("a d"))
