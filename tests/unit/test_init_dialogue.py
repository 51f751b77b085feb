"""The dialogue of ``orch init``: hints, defaults that lose nothing, keys set up in place, files that exist."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from orchestrator.cli.program import cli
from orchestrator.core.inventory.draft.insert import with_hosts
from orchestrator.core.inventory.hosts import Host
from orchestrator.errors import (
    AuthenticationFailed,
    ConnectDropped,
    ConnectRefused,
    ConnectTimeout,
    HostErrors,
    Interrupted,
    NameNotResolved,
    OrchError,
    UsageError,
)
from orchestrator.operations.keys.options import Asking
from orchestrator.operations.setup import existing, gathering
from orchestrator.operations.setup.completing import reservations
from orchestrator.operations.setup.failing import ONE, SEVERAL
from orchestrator.operations.setup.trial import MOST_STARTUPS, Trial, told_apart
from orchestrator.ui.display import Display
from orchestrator.ui.inventory.questions import Questions
from orchestrator.ui.quiet import QuietDisplay
from tests.unit.checks.facts import node
from tests.unit.test_init import Answering, gathered, network, options

__all__ = ["network"]
ASKING = Asking(lambda _: True, lambda _: True, lambda _: "word")


class Terminal:
    """What a user sees on a terminal. ``said``: everything so far, questions and answers included."""

    said = ""


@contextmanager
def typing(*lines: str) -> Iterator[Terminal]:
    """Run the body with a user who types ``lines`` at real questions."""
    seen = Terminal()
    with CliRunner().isolation(input="".join(f"{line}\n" for line in lines)) as streams:
        try:
            yield seen
        finally:
            seen.said = streams[1].getvalue().decode()


def keyless(name: str) -> AuthenticationFailed:
    return AuthenticationFailed("refused", host=name, takes_passwords=True)


def dropped(name: str, address: str = "") -> Trial:
    error = ConnectDropped("closed", remedy="raise MaxStartups", host=name)
    return Trial(Host(name, address or name), error=error)


def test_a_busy_server_is_suspected_only_of_many_connections() -> None:
    def suspected(*trials: Trial) -> set[str]:
        found = told_apart({each.host.name: each for each in trials})
        return {name for name, each in found.items() if each.error and "MaxStartups" in str(each.error)}

    assert suspected(dropped("a"), dropped("b")) == set()
    assert suspected(dropped("a", "gate"), dropped("b", "gate"), dropped("c")) == {"a", "b"}
    many = [dropped(f"h{number}") for number in range(MOST_STARTUPS + 1)]
    assert suspected(*many) == {each.host.name for each in many}
    said = str(told_apart({"a": dropped("a")})["a"].error)
    for cause in ("address", "SSH port", "machine is on", "VPN", "firewall"):
        assert cause in said


@pytest.mark.parametrize(
    "kind", [ConnectTimeout, ConnectRefused, NameNotResolved, AuthenticationFailed, OrchError]
)
@pytest.mark.parametrize("names", ["a", "ab", "abc"])
def test_enter_alone_loses_no_host(network: dict[str, Any], kind: type[OrchError], names: str) -> None:
    network |= {name: kind("failed", host=name) for name in names}
    questions = Answering()
    found = gathered(options(*names), questions)
    assert list(found.hosts) == list(found.errors) == list(names) and not found.dropped
    usual = [default for default in questions.defaults if default]
    assert len(usual) <= 2 and usual[0] == ("keep" if kind is AuthenticationFailed else usual[0])
    if kind is ConnectTimeout:
        assert usual == ["again", "keep"]


def test_another_error_is_another_reason_to_try_again(network: dict[str, Any]) -> None:
    network["a"] = ConnectTimeout("late", host="a")

    class Changing(Answering):
        def choose(self, question: str, choices: Any, default: str) -> str:
            network["a"] = ConnectRefused("refused", host="a")
            return super().choose(question, choices, default)

    questions = Changing()
    assert list(gathered(options("a"), questions).errors) == ["a"]
    assert questions.defaults == ["again", "again", "keep"]


def test_choices_are_explained_once_and_on_request(network: dict[str, Any]) -> None:
    network |= {name: ConnectTimeout("late", host=name) for name in "ab"}
    with typing("HELP", "nonsense", "again", "each", "drop", "keep") as seen:
        found = gathered(options("a", "b"), Questions(True))
    assert (list(found.hosts), found.dropped) == (["b"], ["a"])
    for choice, does in (*SEVERAL.items(), *ONE.items()):
        assert f"  {choice} " in seen.said and does in seen.said
    assert seen.said.count(SEVERAL["each"]) == 2 and seen.said.count(ONE["change"]) == 1
    assert "'nonsense' is no answer here: type one of: again, each, keep, drop" in seen.said
    assert "Error" not in seen.said


def test_when_the_last_host_is_dropped_hosts_are_asked_for_again(network: dict[str, Any]) -> None:
    network |= {"a": ConnectTimeout("late", host="a"), "b": node("b")}
    for words, answers in (((), ["a", "drop", "b", ""]), (("a",), ["drop", "b", ""])):
        said: list[str] = []
        found = gathering.Gathering(options(*words), Answering(*answers), QuietDisplay(said.append)).gather()
        assert list(found.hosts) == ["b"] and any("no host is left" in line for line in said)
    with pytest.raises(UsageError, match="no host is left: a failed and were dropped") as caught:
        gathered(options("a", failing="drop"))
    assert "\n" not in str(caught.value)


def test_an_empty_line_and_help_are_answered_with_a_hint(network: dict[str, Any]) -> None:
    network["a"] = node("a")
    for line in ("", "?", "help"):
        with typing(line, "a", "a", "") as seen:
            gathering.Gathering(options(keys={"user": "me"}), Questions(True), Display()).gather()
        intro, hint = seen.said.split("hosts: ")[:2]
        assert intro.count("\n") == 3 and all(len(each) < 80 for each in intro.splitlines())
        assert "as me" in intro and "an empty line ends" in intro and "password" in intro
        assert "user@host:port, an alias of ~/.ssh/config" in hint and "Several" in hint
        assert "a: in the list already" in seen.said and "Error" not in seen.said


def test_help_is_no_answer_to_any_question() -> None:
    with typing("?", "no way", "N", "help", "", "?") as seen:
        questions = Questions(True)
        assert questions.confirm("write it?", True) is False
        assert questions.text("master", "node1") == "node1"
        with pytest.raises(click.Abort):
            questions.text("file")
    assert "type y or n" in seen.said and "press Enter for node1" in seen.said and "Error" not in seen.said


def test_no_answer_in_place_of_a_host_keeps_it(network: dict[str, Any]) -> None:
    network |= {"a": NameNotResolved("no such name", host="a"), "b": node("b")}
    said: list[str] = []
    answers = Answering("change", "no;host", "")
    found = gathering.Gathering(options("a", "b"), answers, QuietDisplay(said.append)).gather()
    assert (list(found.hosts), list(found.errors)) == (["a", "b"], ["a"])
    assert "nothing typed: a is kept as it is, unchecked" in said
    assert any("'no;host' is no host" in line for line in said)
    assert reservations(found) == ["1 of 2 hosts is written unchecked: a"]


def test_the_preview_counts_what_is_unchecked_and_left_out(network: dict[str, Any]) -> None:
    network |= {name: ConnectTimeout("late", host=name) for name in "abc"} | {"d": node("d")}
    found = gathered(options(), Answering("a b c d", "each", "drop", "drop", "keep", ""))
    assert reservations(found) == ["1 of 4 hosts is written unchecked: c", "2 of 4 hosts are left out: a,b"]
    # A host that was left out and is typed again counts once.
    network["e"] = node("e")
    found = gathered(options(), Answering("a e", "drop", "a", "keep", ""))
    assert reservations(found) == ["1 of 2 hosts is written unchecked: a"]


def test_hosts_are_said_to_be_tried_in_parallel(
    network: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    network |= {name: node(name) for name in "ab"}
    gathering.Gathering(options("a", "b"), Questions(False), Display()).gather()
    assert "trying 2 hosts in parallel" in capsys.readouterr().err
    assert cli.main(["init", "--help"], standalone_mode=False) == 0
    page = capsys.readouterr().out
    assert "hosts in parallel" in page and "tried at once" not in page


class Installing:
    """Stands in for ``orch keys``. ``then``: what becomes of the hosts that have the key now."""

    def __init__(self, network: dict[str, Any], errors: dict[str, OrchError], monkeypatch: Any) -> None:
        self.hosts: list[str] = []
        self.network = network
        self.errors = errors
        monkeypatch.setattr(gathering, "install_keys", self)

    def __call__(self, inventory: Any, hosts: Sequence[Host], asking: Asking, *_: Any) -> dict[str, OrchError]:
        assert asking is ASKING
        self.hosts += [host.name for host in hosts]
        self.network.update({host.name: node(host.name) for host in hosts if host.name not in self.errors})
        return self.errors


def test_keys_are_set_up_on_the_way(network: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    network |= {"a": keyless("a"), "b": node("b"), "c": keyless("c"), "d": AuthenticationFailed("other", host="d")}
    refused = AuthenticationFailed("refused the password", host="c", takes_passwords=True)
    installing = Installing(network, {"c": refused}, monkeypatch)
    questions = Answering("y", "each", "", "")
    found = gathered(options("a", "b", "c", "d", asking=ASKING), questions)
    assert questions.asked[0] == "2 hosts take only a password: set up keys now?"
    assert installing.hosts == ["a", "c"] and list(found.facts) == ["b", "a"]
    assert list(found.hosts) == ["a", "b", "c", "d"] and found.errors["c"] is refused


def test_keys_are_not_set_up_unasked(network: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    network["a"] = keyless("a")
    installing = Installing(network, {}, monkeypatch)
    questions = Answering("n", "again", "")
    assert list(gathered(options("a", asking=ASKING), questions).errors) == ["a"]
    assert len([each for each in questions.asked if "set up keys" in each]) == 1
    said: list[str] = []
    with pytest.raises(HostErrors):
        gathering.Gathering(options("a", asking=ASKING), Questions(False), QuietDisplay(said.append)).gather()
    assert any("--keys --password-stdin installs your key" in line for line in said) and not installing.hosts
    # --keys is the answer where nobody can be asked.
    assert list(gathered(options("a", asking=ASKING, install_keys=True)).facts) == ["a"]


FILE = """\
# My lab.
hosts:
  # by the window
  a: {port: 22}   # old

  b:
    address: 10.0.0.2
# The first.
master: a
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a hosts file that has comments."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hosts.yaml").write_text(FILE)
    return tmp_path / "hosts.yaml"


def test_a_host_is_added_and_every_comment_stays(
    lab: Path, network: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["init", "--no-check", "c", "u@d:2222", "a"]
    with pytest.raises(UsageError, match=r"hosts\.yaml exists → pass --add to add hosts to it"):
        cli.main(words, standalone_mode=False)
    assert cli.main([*words, "--add", "--workdir", "~/w"], standalone_mode=False) == 0
    added = "  c: {workdir: ~/w}\n  d: {workdir: ~/w, user: u, port: 2222}\n"
    # a is there already.
    assert added in lab.read_text() and lab.read_text().replace(added, "") == FILE
    assert "are lost" not in capsys.readouterr().err


def test_only_new_hosts_are_tried(lab: Path, network: dict[str, Any]) -> None:
    network |= {"c": node("c")}
    found = existing.added(options(add=True), Answering("c", ""), QuietDisplay())
    assert "  # Debian" in found.text and list(found.found.hosts) == ["a", "b", "c"]
    with pytest.raises(UsageError, match=r"nothing to add to hosts.yaml: every host named is in it already"):
        existing.added(options("b@10.0.0.2", add=True), Questions(False), QuietDisplay())


def test_what_becomes_of_a_file_that_exists_is_asked(lab: Path) -> None:
    said: list[str] = []
    display = QuietDisplay(said.append)
    questions = Answering("")
    assert existing.settled(options("c"), questions, display).add
    assert questions.asked == ["hosts.yaml exists (2 hosts): what now?"] and questions.defaults == ["add"]
    assert existing.settled(options("c"), Answering("replace"), display).force
    with pytest.raises(Interrupted, match=r"hosts.yaml stays as it is"):
        existing.settled(options("c"), Answering("stop"), display)
    with pytest.raises(UsageError, match="--master does not go with --add"):
        existing.settled(options("c", master="c"), Answering("add"), display)
    existing.settled(options(source="hosts.yaml", force=True), Questions(False), display)
    assert said == ["hosts.yaml will be written anew: comments of your own in it will be lost"]
    lab.write_text("hosts: {a: {pot: 22}}\n")
    questions = Answering("")
    with pytest.raises(Interrupted):
        existing.settled(options("c"), questions, display)
    assert questions.defaults == ["stop"] and any("pot" in line for line in said)
    lab.unlink()
    assert not existing.settled(options("c", add=True), Questions(False), display).add


@pytest.mark.parametrize(
    ("text", "grown"),
    [
        ("hosts: {a: {}}\n", None),
        ("hosts: [a]", None),
        ("hosts:\n- a # x", "hosts:\n- a # x\n- c\n"),
        ("hosts:\n  a:", "hosts:\n  a:\n  c: {}\n"),
        ("hosts:\n    a:\n        env:\n            A: |\n                x\n\nmaster: a\n", "    c: {}\n"),
        ("x: &x {}\nhosts:\n  'gpu[1-2]':\n    address: 10.0.0.[1-2]\n", "  c: {}\n"),
    ],
)
def test_hosts_go_below_those_of_the_file(text: str, grown: str | None) -> None:
    found = with_hosts(text, {"c": {}}, {})
    assert found is None if grown is None else found is not None and grown in found
    if found is not None:
        new = yaml.safe_load(found)
        assert list(new["hosts"])[-1] == "c"


def test_a_style_that_takes_no_lines_is_written_anew_and_that_is_said(
    lab: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab.write_text("hosts: {a: {}}  # mine\n")
    assert cli.main(["init", "--no-check", "--add", "c"], standalone_mode=False) == 0
    assert list(yaml.safe_load(lab.read_text())["hosts"]) == ["a", "c"]
    assert "hosts.yaml is written anew with all its hosts; its comments are lost" in capsys.readouterr().err


def test_both_files_are_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init", "--no-check", "a"], standalone_mode=False) == 0
    assert "wrote hosts.yaml, and hosts.schema.json, by which editors check it\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--add", "--force"], "--add and --force"),
        (["--password-stdin"], "--password-stdin goes with --keys"),
    ],
)
def test_options_that_contradict_each_other(words: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        cli.main(["init", "--no-check", "a", *words], standalone_mode=False)
