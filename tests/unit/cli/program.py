"""The program ``orch`` in this process: what it prints, and how it reads a command line."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click
from click.testing import CliRunner, Result

from orchestrator.cli.program import cli


def invoked(*words: str, columns: int = 80, **env: str) -> Result:
    """Return what came of ``orch`` with these words. Errors are raised."""
    return CliRunner(env={"COLUMNS": str(columns), **env}).invoke(
        cli, list(words), prog_name="orch", catch_exceptions=False, standalone_mode=False
    )


def printed(*words: str, columns: int = 80, **env: str) -> str:
    """Return what ``orch`` prints on stdout with these words. Errors are raised."""
    return invoked(*words, columns=columns, **env).stdout


def verbs(command: click.Command = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Yield every verb, and the verbs below it, by the words that call it."""
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield " ".join((*path, name)), each
            yield from verbs(each, (*path, name))


def parse(command_line: str) -> None:
    """Let the verb that a command line calls parse it. Raises click.ClickException or OrchError."""
    context = cli.make_context("orch", shlex.split(command_line)[1:])
    while isinstance(context.command, click.Group):
        words = [*context._protected_args, *context.args]
        if not words:
            return
        name, verb, rest = context.command.resolve_command(context, words)
        assert verb is not None and name is not None
        context = verb.make_context(name, rest, parent=context)
