"""``orch dashboard``: the recorded runs in a browser."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.options import runs_dir_option


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=7077,
    show_default=True,
    metavar="N",
    help="Where to listen, on this machine's loopback only; 0 for any free port.",
)
@click.option("--open", "opens", is_flag=True, help="Open the page in this machine's browser.")
@runs_dir_option
def dashboard(port: int, opens: bool, runs_dir: Path) -> int:
    """Show runs, live and past, in a browser.

    A run's page has its nodes, logs, curves, load and cause, and buttons to stop it and to see its stacks. Only
    the browser that opens the printed address sees the page.
    """
    from orchestrator.commands.dashboard import dashboard as command
    from orchestrator.ui.display import Display

    return command(runs_dir, port, opens, Display())
