"""What orch suggests for an option or a verb that it does not have."""

from __future__ import annotations

import click
import pytest

from orchestrator.cli.meaning import SAME, SAYS, suggestion, verb_suggestion
from orchestrator.cli.program import cli, no_such_option, refuse_unknown_verb
from orchestrator.errors import UsageError

# The words after orch, and what to do instead.
OPTIONS = [
    ("run --workers 2", "use --nproc"),
    ("run --machines 2", "use --nodes"),
    ("run --host a", "use --hosts"),
    ("run --background", "use --detach"),
    ("run --daemon", "use --detach"),
    ("run --force", "use --no-doctor"),
    ("run --retries 3", "use --max-restarts"),
    ("run --output x", "use --runs-dir"),
    ("run --timeout 3", "use --connect-timeout"),
    ("run --fp16", "use --mixed-precision"),
    ("run --ssh-key k", "set identity_file: in the hosts file, or IdentityFile in ~/.ssh/config"),
    ("run --user u", "set user: in the hosts file, or User in ~/.ssh/config"),
    ("run --password p", "orch takes none; orch keys installs a key on every host"),
    ("doctor --hostfile x", "use --hosts"),
    ("doctor --repair", "use --fix"),
    ("doctor --forks 3", "use --fanout"),
    ("doctor --limit a", "use --nodes"),
    ("doctor --silent", "2>/dev/null hides orch's own lines; stdout carries only the workload's"),
    ("ps --everything", "use --all"),
    ("ps --jsn", "did you mean --json?"),
    ("logs --tail", "use --follow"),
    ("logs --lines 3", "use --since"),
    ("stop --kill_after 3 r", "use --grace"),
    ("attach --json_output", "use --json"),
    ("sync --force", "use --yes"),
    ("sync --zzz", "see orch sync --help"),
    ("exec nvidia-smi -L", "the command follows --: orch exec -- COMMAND"),
    ("--hosts h ps", "options follow the verb: orch VERB --hosts ..."),
    ("sandbox up --hostfile x", "use --hosts"),
]


def said(words: list[str]) -> str | None:
    """Return the remedy that orch gives for the words."""
    try:
        refuse_unknown_verb(words)
        cli.main(args=words, prog_name="orch", standalone_mode=False)
    except click.NoSuchOption as error:
        return no_such_option(error).remedy
    except UsageError as error:
        return error.remedy
    raise AssertionError("not refused")


@pytest.mark.parametrize(("words", "remedy"), OPTIONS)
def test_an_unknown_option_is_answered_by_its_meaning(words: str, remedy: str) -> None:
    assert said(words.split()) == remedy


VERBS = [
    ("torchrun --nproc_per_node 2 t.py", "orch run --nproc_per_node 2 t.py"),
    ("accelerate launch --cpu t.py", "orch run --launcher accelerate --cpu t.py"),
    ("accelerate test", "orch doctor"),
    ("deepspeed --num_gpus 2 t.py --deepspeed", "orch run --num_gpus 2 t.py --deepspeed"),
    ("python -u t.py --lr 1", "orch run t.py --lr 1"),
    ("python3 -m torch.distributed.run t.py", "orch run t.py"),
    ("python -m accelerate.commands.launch t.py", "orch run --launcher accelerate t.py"),
    ("python -m pkg.mod", "orch run -m pkg.mod"),
    ("mpirun -np 4 t.py", "orch run WORKLOAD starts it on every host"),
    ("launch t.py", "orch run t.py"),
    ("start t.py", "orch run t.py"),
    ("train --epochs 3", "orch run train --epochs 3"),
    ("hello-dpp", "orch run hello-ddp"),
    ("my.py --x 'a b'", "orch run my.py --x ''\"'\"'a' 'b'\"'\"''"),
    ("check", "orch doctor"),
    ("kill --all", "orch stop --all"),
    ("status", "orch ps"),
    ("list", "orch ps"),
    ("tail r", "orch logs r"),
    ("push", "orch sync"),
    ("ssh -- ls", "orch exec -- ls"),
    ("stpo r", "orch stop r"),
    ("dry-run t.py", "orch plan t.py"),
]


@pytest.mark.parametrize(("words", "remedy"), VERBS)
def test_an_unknown_verb_is_answered_with_the_right_one(words: str, remedy: str) -> None:
    assert said(words.split(" ")) == remedy


def test_a_verb_of_nobody_lists_orchs() -> None:
    remedy = said(["zzzzzz"])
    assert remedy is not None and remedy.startswith("verbs: init, hosts, keys, run, plan, ")


def test_only_what_a_verb_has_is_suggested() -> None:
    assert suggestion("--follow-me", ["--fix"]) is None
    assert suggestion("--tail", ["--fix"]) is None
    assert verb_suggestion(["config"], ["run"], []) is None
    assert verb_suggestion(["config", "x"], ["init"], []) == "orch init x"


def test_a_word_means_one_thing_to_a_verb() -> None:
    for texts in (list(SAME.values()), list(SAYS)):
        for text in texts:
            words = text.split()
            assert len(set(words)) == len(words), text
    for target in SAME:
        assert target.startswith("--")
