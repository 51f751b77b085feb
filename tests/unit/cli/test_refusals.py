"""How orch refuses a command line: one line with a remedy, wrapped between words on a narrow terminal."""

from __future__ import annotations

import shlex

import click
import pytest

from orchestrator.cli.help.refusals import refusal
from orchestrator.ui.console import fitted
from tests.unit.cli.program import parse, printed


@pytest.mark.parametrize(
    ("words", "message", "remedy"),
    [
        (
            "run --backend foo train",
            "invalid value for '--backend': 'foo' is not one of 'auto', 'nccl', 'gloo', 'mpi'",
            "see orch run --help",
        ),
        (
            "run --port 99999 train",
            "invalid value for '--port': 99999 is not in the range 1<=x<=65535",
            "see orch run --help",
        ),
        ("exec", "missing argument '-- CMD [ARGS]'", "see orch exec --help"),
        ("ps extra", "got unexpected extra argument (extra)", "see orch ps --help"),
        (
            "completion",
            "missing argument 'bash|zsh|fish'. Choose from: bash, zsh, fish",
            "see orch completion --help",
        ),
    ],
)
def test_a_refusal_is_one_line_with_a_remedy(words: str, message: str, remedy: str) -> None:
    with pytest.raises(click.ClickException) as raised:
        parse(f"orch {words}")
    refused = refusal(raised.value)
    assert (refused.message, refused.remedy, refused.exit_code) == (message, remedy, 2)


def test_a_refusal_without_a_context_has_no_remedy() -> None:
    assert str(refusal(click.ClickException("No way."))) == "no way"


def test_a_verb_that_has_verbs_shows_its_page_alone() -> None:
    assert printed("sandbox") == printed("sandbox", "--help") and "  up " in printed("sandbox")


def test_a_line_is_wrapped_between_words_only_where_it_must_be() -> None:
    line = "error: the file /a-rather-long-folder/hosts.yaml is wrong → correct it, or pass --hosts FILE to name another"
    assert fitted(line, len(line)) == line
    narrow = fitted(line, 40).splitlines()
    assert narrow[0] == "error: the file" and narrow[1].strip() == "/a-rather-long-folder/hosts.yaml is"
    assert max(map(len, narrow)) <= 40 and sum(each.startswith("  → ") for each in narrow) == 1
    assert shlex.split(" ".join(narrow)) == shlex.split(line)
    # A word is never cut, even if it is longer than the terminal is wide.
    assert "/a-rather-long-folder/hosts.yaml" in fitted(line, 10).split()
