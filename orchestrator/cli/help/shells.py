"""Completion scripts for shells, and how each shell tells ``orch`` its words."""

from __future__ import annotations

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
)

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_ORCH_COMPLETE"


def script(program: click.Command, shell: str) -> str:
    """Return the script that makes ``shell``, one of ``SHELLS``, complete the words of ``orch``."""
    known = get_completion_class(shell)
    assert known is not None
    return known(program, {}, "orch", VARIABLE).source()


@add_completion_class
class Bash(BashComplete):
    """Completion in bash, which splits ``--nodes=gpu`` into three words."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one to complete, without ``=`` after options, and that word."""
        words, incomplete = super().get_completion_args()
        joints = {at for at, word in enumerate(words) if word == "=" and at and words[at - 1].startswith("--")}
        return [word for at, word in enumerate(words) if at not in joints], incomplete


class _Joined(ShellComplete):
    """Completion in a shell that replaces all of ``--nodes=gpu``, of which click returns only the value."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem]:
        """Return what the word may be, as a whole."""
        option, equals, _ = incomplete.partition("=")
        found = super().get_completions(args, incomplete)
        if not equals or not option.startswith("--"):
            return found
        return [
            CompletionItem(f"{option}={item.value}", item.type, item.help) if item.type == "plain" else item
            for item in found
        ]


@add_completion_class
class Zsh(_Joined, ZshComplete):
    """Completion in zsh."""


@add_completion_class
class Fish(_Joined, FishComplete):
    """Completion in fish. click's script cuts words and texts at their first comma."""

    source_template = FishComplete.source_template.replace('string split ","', 'string split --max 1 ","')
