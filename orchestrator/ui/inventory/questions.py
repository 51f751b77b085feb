"""Questions to the user on stderr, each with the answer that counts where nobody can be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from orchestrator.core.text.escapes import visible

HELP = ("?", "help")


class Questions:
    """Asks the user if ``able``; otherwise every question is answered by its default.

    ``?`` and ``help`` are answered with a hint, and the question is asked again. All methods raise click.Abort at
    the end of stdin.
    """

    def __init__(self, able: bool) -> None:
        self.able = able
        self._explained: set[str] = set()

    def confirm(self, question: str, default: bool) -> bool:
        """Ask a yes-or-no question."""
        if not self.able:
            return default
        shown = f"{question} [{'Y/n' if default else 'y/N'}]"
        while True:
            answer = self._answer(shown, "", ["type y or n, or press Enter for the capital one"]).lower()
            if not answer:
                return default
            if answer in ("y", "yes", "n", "no"):
                return answer[0] == "y"
            self.say(f"{answer!r} is no answer here: type y or n")

    def text(self, question: str, default: str = "", hint: Sequence[str] = ()) -> str:
        """Ask for a line of text; an empty line gives the default. ``hint``: the lines that help is."""
        usual = [f"type a value, or press Enter for {default}"] if default else ["type a value, then Enter"]
        return self._answer(question, default, hint or usual) if self.able else default

    def choose(self, question: str, choices: Sequence[str] | Mapping[str, str], default: str) -> str:
        """Ask for one of ``choices``. A mapping says what each does, which is shown once."""
        if not self.able:
            return default
        lines = [f"type one of: {', '.join(choices)}; Enter takes {default}"]
        asked = question
        if isinstance(choices, Mapping):
            width = max(map(len, choices))
            lines = [f"  {choice:<{width}}  {does}" for choice, does in choices.items()]
            if not self._explained.issuperset(choices):
                self.say(question, *lines)
                asked = "your choice"
                self._explained.update(choices)
        while True:
            answer = self._answer(f"{asked} ({', '.join(choices)})", default, lines).lower()
            if answer in choices:
                return answer
            self.say(f"{answer!r} is no answer here: type one of: {', '.join(choices)}")

    def say(self, *lines: str) -> None:
        """Show lines that belong to a question."""
        for line in lines:
            click.echo(visible(line), err=True)

    def _answer(self, question: str, default: str, hint: Sequence[str]) -> str:
        while True:
            answer: str = click.prompt(visible(question), default=default, show_default=bool(default), err=True)
            if answer.strip().lower() not in HELP:
                return answer.strip()
            self.say(*hint)
