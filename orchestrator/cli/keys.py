"""The verb that sets up SSH keys."""

from __future__ import annotations

import sys
from typing import Any

import click

from orchestrator.cli.options import target, target_options
from orchestrator.errors import UsageError


@click.command()
@target_options
@click.option(
    "--identity-file",
    metavar="FILE",
    help="The private key to install, made if FILE does not exist. Default: the key that orch offers to the host.",
)
@click.option("--between", is_flag=True, help="Also let every host log in to every other, with a key of its own.")
@click.option("--undo", is_flag=True, help="Take back what orch keys changed; with --between, only between hosts.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--yes", is_flag=True, help="Ask nothing but passwords; new host keys need --accept-new-host-keys.")
@click.option("--password-stdin", is_flag=True, help="Read the password from stdin, one line; needs --yes.")
def keys(
    identity_file: str | None,
    between: bool,
    undo: bool,
    dry_run: bool,
    yes: bool,
    password_stdin: bool,
    accept_new_host_keys: bool,
    **options: Any,
) -> int:
    """Log in with a key in place of a password: make one if needed, and install it on every host.

    Shows what it will change, and asks. The password is asked for once for all hosts that share it, and not kept.
    """
    from orchestrator.commands.keys import keys as command
    from orchestrator.operations.keys.options import Asking, KeysOptions
    from orchestrator.ui.display import Display

    display = Display()
    terminal = sys.stdin.isatty()
    if password_stdin and not (yes or dry_run):
        raise UsageError("--password-stdin needs --yes: stdin cannot answer questions as well")
    if not (yes or dry_run or terminal):
        raise UsageError("orch keys asks before each change, and stdin is no terminal", remedy="pass --yes")
    asking = Asking(
        agree=lambda question: yes or display.confirm(question),
        accept=_accept(accept_new_host_keys, terminal, display),
        password=_passwords(password_stdin, terminal, display),
    )
    asked = KeysOptions(asking, identity_file, between, undo, dry_run)
    return command(target({**options, "accept_new_host_keys": False}), asked, display)


def _accept(accept_all: bool, terminal: bool, display: Any) -> Any:
    if accept_all:
        return lambda question: True
    return display.confirm if terminal else None


def _passwords(from_stdin: bool, terminal: bool, display: Any) -> Any:
    given = iter([sys.stdin.readline().rstrip("\r\n")] if from_stdin else [])

    def ask(whose: str) -> str | None:
        if from_stdin:
            return next(given, None)
        if not terminal:
            raise UsageError(f"the {whose} is needed, and stdin is no terminal", remedy="pass --password-stdin")
        return str(display.ask_password(whose)) or None

    return ask
