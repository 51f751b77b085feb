"""The front page, the pages of the verbs, the topics, and the versions."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import click
import pytest

from orchestrator import __version__, errors
from orchestrator.cli.foreign import foreign
from orchestrator.cli.help.examples import EXAMPLES
from orchestrator.cli.help.front import GROUPS, NO_HOSTS, STEPS, first_steps, grouped
from orchestrator.cli.help.sections import by_section
from orchestrator.cli.help.topics import TEXTS, topic, topics
from orchestrator.cli.program import cli
from orchestrator.cli.spelling import dashed
from orchestrator.core.launch import command as launch_command
from orchestrator.core.launch.variables import TRAVELLING
from orchestrator.errors import CLOSED_PIPE, EXIT_CODES, OrchError, UsageError
from tests.conftest import ROOT
from tests.unit.cli.program import parse, printed, verbs

VERBS = dict(verbs())
README = (ROOT / "README.md").read_text()


def test_every_verb_is_in_one_group() -> None:
    listed = [name for names in GROUPS.values() for name in names]
    assert len(listed) == len(set(listed))
    assert set(cli.commands) <= set(listed), "give the new verb a group in cli/help/front.py"
    assert grouped(["run", "new"]) == {"Start": ["run"], "Other": ["new"]}


def test_orch_alone_shows_the_steps_and_the_verbs() -> None:
    shown = printed()
    assert shown == printed("--help") == printed("-h")
    assert [step.verb for step in STEPS] == ["init", "keys", "doctor", "run", "run"]
    for number, step in enumerate(first_steps(cli.commands), start=1):
        assert f"  {number}. {step.command}" in shown
    assert "orch run train.py --lr 0.1" in shown and NO_HOSTS in shown
    parse(NO_HOSTS.partition(": ")[2])
    for group, names in GROUPS.items():
        assert f"  {group.lower():<5}  {', '.join(names)}\n" in shown
    places = [shown.index(f"\n{heading}:\n") for heading in ("First steps", "Verbs", "More")]
    assert places == sorted(places)


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("path", ["", *VERBS])
def test_pages_fit_the_terminal(path: str, columns: int) -> None:
    shown = printed(*path.split(), "--help", columns=columns)
    assert max(map(len, shown.splitlines())) < columns
    assert shown.count("\n\n\n") == 0
    # The front page fits a terminal of 24 lines.
    if not path:
        assert len(shown.splitlines()) <= 24


@pytest.mark.parametrize("path", VERBS)
def test_a_page_shows_examples_and_every_option_once(path: str) -> None:
    shown = printed(*path.split(), "--help")
    assert 2 <= len(EXAMPLES[path]) <= 4
    for command, does in EXAMPLES[path]:
        assert command in shown and does in shown
    options = [each for each in VERBS[path].params if isinstance(each, click.Option) and not each.hidden]
    for option in options:
        assert len(re.findall(rf"^  (?:-\w, )?{option.opts[-1]}(?![\w-])", shown, re.MULTILINE)) == 1
        # No word is cut, and no default.
        assert set((option.help or "").split()) <= set(shown.split())
    assert not re.search(r"\[default:\s*$", shown, re.MULTILINE) and "\u00a0" not in shown
    if path not in topics():
        assert shown == printed("help", *path.split())


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_the_options_of_a_launch_are_in_sections(verb: str) -> None:
    names = [each.name or "" for each in VERBS[verb].params if isinstance(each, click.Option) and not each.hidden]
    sections = by_section(verb, names)
    assert sorted(names) == sorted(name for inside in sections.values() for name in inside)
    assert "Options" not in sections, f"give {sections.get('Options')} a section in cli/help/sections.py"
    assert next(iter(sections)) == "Hosts" and list(sections)[-1] == "Connections"


def commands_in(text: str) -> list[str]:
    """Return the command lines in a text that call a verb of the program."""
    found = (re.sub(r"\s{2,}.*|[>;)].*", "", each) for each in re.findall(r"\borch (?=[a-z-]).*", text))
    return [each for each in found if each.split()[1] in cli.commands]


@pytest.mark.parametrize("path", [path for path in EXAMPLES if path in VERBS])
def test_examples_are_commands_that_orch_takes(path: str) -> None:
    seen = [line for command, _ in EXAMPLES[path] for line in commands_in(command)]
    assert any(line.startswith(f"orch {path}") for line in seen)
    for line in seen:
        parse(line)


def test_there_are_topics_on_what_verbs_share() -> None:
    assert {"hosts", "env", "sync", "outputs", "exit-codes"} <= set(topics())
    shown = printed("help")
    for name, about in topics().items():
        assert re.search(rf"^  {name} +{re.escape(about)}$", shown, re.MULTILINE)
    assert max(map(len, shown.splitlines())) < 80


def test_help_alone_names_every_verb() -> None:
    shown, _, rest = printed("help").partition("\nTopics ")
    assert rest and shown.startswith("Verbs (orch help VERB shows one):\n")
    for name, verb in cli.commands.items():
        assert re.search(rf"^  {name} +{re.escape(verb.get_short_help_str(200))}$", shown, re.MULTILINE), name


@pytest.mark.parametrize("name", topics())
def test_a_topic_says_what_is_so(name: str) -> None:
    text = topic(name)
    assert printed("help", name).startswith(text)
    assert max(map(len, text.splitlines())) < 80
    # An indented line is a command, with what it does after two blanks.
    for line in text.splitlines():
        if line.startswith("  orch "):
            parse(re.split(r"\s{2,}", line.strip())[0])
    known = {word for verb in VERBS.values() for option in verb.params for word in option.opts}
    # A command's options were read above, with those of its script.
    prose = re.sub(r"^  orch .*$", "", text, flags=re.MULTILINE)
    for option in set(re.findall(r"(?<![\w-])--[a-z][\w-]*(?![\w*-])", prose)):
        assert dashed(option) in known or foreign(dashed(option)), option
    keys = set(re.findall(r"`(\w+)`", (ROOT / "docs" / "inventory.md").read_text()))
    assert set(re.findall(r"^ +([a-z_]+):", text, re.MULTILINE)) <= keys
    for pattern in set(re.findall(r"\b[A-Z]+_\*", text)) - {"WANDB_*"}:
        assert pattern in TRAVELLING
    given_to_ranks = Path(launch_command.__file__).read_text()
    for variable in set(re.findall(r"ORCH_[A-Z_]+", text)) - {"ORCH_HOSTS"}:
        assert f'"{variable}"' in given_to_ranks


def test_no_text_is_left_out_of_the_topics() -> None:
    assert {file.name for file in TEXTS.iterdir()} == {f"{name}.txt" for name in topics()}


def test_the_exit_codes_are_those_of_the_errors() -> None:
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, OrchError)]
    assert {each.exit_code for each in classes} | {0, CLOSED_PIPE} == set(EXIT_CODES)
    table = re.findall(r"^\| (\d+) \| (.*) \|$", README, re.MULTILINE)
    assert {int(code): meaning for code, meaning in table} == EXIT_CODES
    for code, meaning in EXIT_CODES.items():
        assert f"  {code:>3}  {meaning}" in re.sub(r"\n {7}", " ", topic("exit-codes"))


def test_a_word_that_is_no_topic_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="exit_code: neither a topic nor a verb") as raised:
        printed("help", "exit_code")
    assert raised.value.remedy == "did you mean orch help exit-codes?"
    with pytest.raises(UsageError) as raised:
        printed("help", "xyzzy")
    assert raised.value.remedy == "orch help lists the topics and the verbs"
    with pytest.raises(UsageError, match="orch help sandbox upp"):
        printed("help", "sandbox", "upp")


def test_the_version_names_python_torch_and_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    first, python, torch, system = printed("--version").splitlines()
    assert first == f"orch {__version__}"
    assert re.fullmatch(r"python 3\.\d+\.\d+\S*", python) and system.startswith("platform ")
    assert torch.startswith("torch ")

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert "torch not installed for this Python" in printed("--version")
