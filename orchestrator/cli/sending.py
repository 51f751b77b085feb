"""Verbs that send files or a command to every host."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.options import size, target, target_options
from orchestrator.errors import UsageError


@click.command()
@target_options
@click.option(
    "--project",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="The folder to sync; by default the nearest one upwards with .git, pyproject.toml or .orchignore.",
)
@click.option(
    "--data",
    multiple=True,
    metavar="PATH[:REMOTE]",
    help="Also send a file or a folder, passed on from host to host, to REMOTE or <workdir>/data; for mnist, orch "
    "downloads the data set first.",
)
@click.option("--rate", metavar="SIZE", help="Send data at no more than SIZE bytes per second: 20M, 1G.")
@click.option(
    "--offline", is_flag=True, help="Send the wheels for env: from here, even if the hosts reach an index."
)
@click.option("--check", is_flag=True, help="Compare and write nothing; exit with code 5 if a host differs.")
@click.option("--dry-run", is_flag=True, help="List what would be sent.")
@click.option("--watch", is_flag=True, help="Push again whenever a file is saved, until Ctrl-C.")
@click.option("--prune", is_flag=True, help="Remove old trees, environments and blobs that no run uses.")
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    metavar="N",
    default=3,
    show_default=True,
    help="With --prune: how many of each to keep.",
)
@click.option("--runs", is_flag=True, help="With --prune: also remove the working folders of ended runs.")
@click.option("--yes", is_flag=True, help="Send files that data: names outside the project folder without asking.")
def sync(
    project: Path | None,
    data: tuple[str, ...],
    rate: str | None,
    offline: bool,
    check: bool,
    dry_run: bool,
    watch: bool,
    prune: bool,
    keep: int,
    runs: bool,
    yes: bool,
    **options: Any,
) -> int:
    """Bring code, environment and data to every host.

    Everything is verified by hash. orch run syncs the code by itself.
    """
    from orchestrator.commands.sync import sync as command
    from orchestrator.operations.delivery.syncing import SyncOptions
    from orchestrator.ui.display import Display

    if sum([check, dry_run, watch, prune]) > 1:
        raise UsageError("--check, --dry-run, --watch and --prune exclude each other")
    speed = size(rate) if rate else None

    display = Display()

    def agree(question: str) -> bool:
        return yes or display.confirm(question)

    able = yes or sys.stdin.isatty()
    asked = SyncOptions(
        project, check, dry_run, watch, prune, keep, runs, data, speed, offline, agree if able else None
    )
    return command(target(options), asked, display)


@click.command(name="exec")
@target_options
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, required=True, metavar="-- CMD [ARGS]")
def execute(argv: Sequence[str], **options: Any) -> int:
    """Run one command on every host, and show equal output once."""
    from orchestrator.commands.exec import run_everywhere as command
    from orchestrator.ui.display import Display

    return command(target(options), argv, Display())
