"""What orch suggests for an option or a verb that it does not have."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from pytest import MonkeyPatch

from orchestrator.cli.help.refusals import refusal
from orchestrator.cli.meaning import SAME, SAYS, suggestion, verb_suggestion
from orchestrator.cli.meaning import VERBS as VERBS_BY_MEANING
from orchestrator.cli.program import cli, no_such_option, refuse_unknown_verb
from orchestrator.core.text.nearest import edits, nearest
from orchestrator.errors import UsageError

# The words after orch, and what to do instead.
OPTIONS = [
    ("run --workers 2", "did you mean --nproc?"),
    ("run --machines 2", "did you mean --nodes?"),
    ("run --host a", "did you mean --hosts?"),
    ("run --background", "did you mean --detach?"),
    ("run --daemon", "did you mean --detach?"),
    ("run --force", "did you mean --no-doctor?"),
    ("run --retries 3", "did you mean --max-restarts?"),
    ("run --output x", "did you mean --runs-dir?"),
    ("run --timeout 3", "did you mean --connect-timeout?"),
    ("run --fp16", "did you mean --mixed-precision?"),
    ("run --ssh-key k", "set identity_file: in the hosts file, or IdentityFile in ~/.ssh/config"),
    ("run --user u", "set user: in the hosts file, or User in ~/.ssh/config"),
    ("run --password p", "orch takes none; orch keys installs a key on every host"),
    ("doctor --hostfile x", "did you mean --hosts?"),
    ("doctor --repair", "did you mean --fix?"),
    ("doctor --forks 3", "did you mean --fanout?"),
    ("doctor --limit a", "did you mean --nodes?"),
    ("doctor --silent", "2>/dev/null hides orch's own lines; stdout carries only the workload's"),
    ("ps --everything", "did you mean --all?"),
    ("ps --jsn", "did you mean --json?"),
    ("logs --tail", "did you mean --follow?"),
    ("logs --lines 3", "did you mean --since?"),
    ("stop --kill_after 3 r", "did you mean --grace?"),
    ("attach --json_output", "did you mean --json?"),
    ("sync --force", "did you mean --yes?"),
    ("sync --zzz", "see orch sync --help"),
    ("exec nvidia-smi -L", "the command follows --: orch exec -- COMMAND"),
    ("--hosts h ps", "options follow the verb: orch VERB --hosts ..."),
    ("sandbox up --hostfile x", "did you mean --hosts?"),
]


def said(words: list[str]) -> str | None:
    """Return the remedy that orch gives for the words."""
    try:
        refuse_unknown_verb(words)
        cli.main(args=words, prog_name="orch", standalone_mode=False)
    except click.NoSuchOption as error:
        return no_such_option(error).remedy
    except click.ClickException as error:
        return refusal(error).remedy
    except UsageError as error:
        return error.remedy
    raise AssertionError("not refused")


@pytest.mark.parametrize(("words", "remedy"), OPTIONS)
def test_an_unknown_option_is_answered_by_its_meaning(words: str, remedy: str) -> None:
    assert said(words.split()) == remedy


VERBS = [
    ("torchrun --nproc_per_node 2 t.py", "leave out torchrun: orch run --nproc_per_node 2 t.py"),
    ("accelerate launch --cpu t.py", "leave out accelerate launch: orch run --launcher accelerate --cpu t.py"),
    ("accelerate test", "did you mean orch doctor?"),
    ("deepspeed --num_gpus 2 t.py --deepspeed", "leave out deepspeed: orch run --num_gpus 2 t.py --deepspeed"),
    ("python -u t.py --lr 1", "leave out python: orch run t.py --lr 1"),
    ("python3 -m torch.distributed.run t.py", "leave out python3 -m torch.distributed.run: orch run t.py"),
    (
        "python -m accelerate.commands.launch t.py",
        "leave out python -m accelerate.commands.launch: orch run --launcher accelerate t.py",
    ),
    ("python -m pkg.mod", "leave out python: orch run -m pkg.mod"),
    ("mpirun -np 4 t.py", "leave out mpirun: orch run t.py starts every rank"),
    ("launch t.py", "did you mean orch run t.py?"),
    ("start t.py", "did you mean orch run t.py?"),
    ("train --epochs 3", "did you mean orch run train --epochs 3?"),
    ("hello-dpp", "did you mean orch run hello-ddp?"),
    ("my.py --x 'a b'", "did you mean orch run my.py --x ''\"'\"'a' 'b'\"'\"''?"),
    ("check", "did you mean orch doctor?"),
    ("kill --all", "did you mean orch stop --all?"),
    ("status", "did you mean orch ps?"),
    ("list", "did you mean orch ps?"),
    ("tail r", "did you mean orch logs r?"),
    ("push", "did you mean orch sync?"),
    ("ssh -- ls", "did you mean orch exec -- ls?"),
    ("stpo r", "did you mean orch stop r?"),
    ("dry-run t.py", "did you mean orch plan t.py?"),
]


@pytest.mark.parametrize(("words", "remedy"), VERBS)
def test_an_unknown_verb_is_answered_with_the_right_one(words: str, remedy: str) -> None:
    assert said(words.split(" ")) == remedy


def slips(word: str) -> set[str]:
    """Return what comes of a word when two letters change places, or one is doubled or left out."""
    swapped = {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(len(word) - 1)}
    doubled = {word[: i + 1] + word[i:] for i in range(len(word))}
    # Two letters are hardly a word any more.
    shorter = {word[:i] + word[i + 1 :] for i in range(len(word))} if len(word) > 3 else set()
    return (swapped | doubled | shorter) - {word}


@pytest.mark.parametrize("verb", cli.commands)
def test_a_slip_of_the_hand_is_answered_with_the_verb(verb: str) -> None:
    others = {name for names in VERBS_BY_MEANING.values() for name in names.split()} | set(cli.commands)
    for typed in slips(verb) - others:
        assert said([typed, "x"]) == f"did you mean orch {verb} x?", typed
    assert said([verb.upper()]) == f"did you mean orch {verb}?"


SLIPS = [
    ("rnu t.py", "did you mean orch run t.py?"),
    ("runn hello", "did you mean orch run hello?"),
    ("hots", "did you mean orch hosts?"),
    ("docter --fix", "did you mean orch doctor --fix?"),
    ("stats", "did you mean orch ps?"),
    ("lanch t.py", "did you mean orch run t.py?"),
    ("trian --epochs 1", "did you mean orch run train --epochs 1?"),
    ("sandbox upp", "did you mean orch sandbox up?"),
    ("workloads cpoy gpt", "did you mean orch workloads copy?"),
    ("sandbox zzz", "verbs: up, down"),
    ("run hello-dpp", "did you mean hello-ddp?"),
    ("run trian.py", "did you mean train.py?"),
    ("run ./src/mian.py", "did you mean ./src/main.py?"),
    ("help docter", "did you mean orch help doctor?"),
    ("help outptus", "did you mean orch help outputs?"),
    ("stop --al", "did you mean --all?"),
]


@pytest.mark.parametrize(("words", "remedy"), SLIPS)
def test_all_suggestions_have_one_form(words: str, remedy: str, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    (tmp_path / "src").mkdir()
    for name in ("hosts.yaml", "train.py", "src/main.py"):
        (tmp_path / name).write_text("hosts: {a: {}}" if name.endswith("yaml") else "")
    monkeypatch.chdir(tmp_path)
    assert said(words.split()) == remedy


@pytest.mark.parametrize(("one", "other", "distance"), [
    ("", "ab", 2), ("rnu", "run", 1), ("run", "run", 0), ("runn", "run", 1), ("docter", "doctor", 1), ("abcd", "badc", 2),
])  # fmt: skip
def test_edits_are_counted(one: str, other: str, distance: int) -> None:
    assert edits(one, other) == edits(other, one) == distance


def test_what_is_far_from_every_word_means_none() -> None:
    assert nearest("foo", cli.commands) is None and nearest("x", cli.commands) is None
    assert nearest("zz", ["ps"]) is None and nearest("port", ["--no-sync", "--nodes"]) is None
    # A beginning stands for a word only if the word is the only one that begins so.
    assert nearest("work", cli.commands) == "workloads" and nearest("xyz", ["xyzab1", "xyzab2"]) is None
    assert nearest("work", cli.commands, beginnings=False) is None


def test_a_verb_of_nobody_lists_orchs() -> None:
    remedy = said(["zzzzzz"])
    assert remedy is not None and remedy.startswith("verbs: init, hosts, keys, run, plan, ")


def test_only_what_a_verb_has_is_suggested() -> None:
    assert suggestion("--follow-me", ["--fix"]) is None
    assert suggestion("--tail", ["--fix"]) is None
    assert verb_suggestion(["config"], ["run"], []) is None
    assert verb_suggestion(["config", "x"], ["init"], []) == "did you mean orch init x?"


def test_a_word_means_one_thing_to_a_verb() -> None:
    for texts in (list(SAME.values()), list(SAYS)):
        for text in texts:
            words = text.split()
            assert len(set(words)) == len(words), text
    for target in SAME:
        assert target.startswith("--")
