"""Questions to the user on stderr, each with the answer that counts where nobody can be asked."""

from __future__ import annotations

from collections.abc import Sequence

import click

from orchestrator.core.text.escapes import visible


class Questions:
    """Asks the user if ``able``; otherwise every question is answered by its default.

    All methods raise click.Abort at the end of stdin.
    """

    def __init__(self, able: bool) -> None:
        self.able = able

    def confirm(self, question: str, default: bool) -> bool:
        """Ask a yes-or-no question."""
        return click.confirm(visible(question), default=default, err=True) if self.able else default

    def text(self, question: str, default: str = "") -> str:
        """Ask for a line of text; an empty line gives the default."""
        if not self.able:
            return default
        shown = bool(default)
        answer: str = click.prompt(visible(question), default=default, show_default=shown, err=True)
        return answer.strip()

    def choose(self, question: str, choices: Sequence[str], default: str) -> str:
        """Ask for one of ``choices``."""
        if not self.able:
            return default
        answer: str = click.prompt(visible(question), type=click.Choice(choices), default=default, err=True)
        return answer
