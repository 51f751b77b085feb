"""Verbs that end runs, and the embedded cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from orchestrator.cli.help import completion
from orchestrator.cli.options import RUN, grace_option, hosts_option, target, target_options
from orchestrator.errors import UsageError


@click.command()
@target_options
@click.argument("run_id", type=RUN, required=False, metavar="[RUN]", shell_complete=completion.runs)
@click.option("--all", "everything", is_flag=True, help="Stop every run on the hosts.")
@grace_option
def stop(run_id: str | None, everything: bool, grace: float | None, **options: Any) -> int:
    """End RUN on every host.

    orch returns when no process of the run is left.
    """
    from orchestrator.commands.stop import stop as command
    from orchestrator.ui.display import Display

    if (run_id is None) != everything:
        raise UsageError("say which run to stop", remedy="orch stop RUN, or orch stop --all")
    return command(target(options), run_id, grace, Display())


@click.group(invoke_without_command=True)
@click.pass_context
def sandbox(context: click.Context) -> None:
    """Start or stop the embedded cluster.

    Its hosts are SSH servers on this machine, to try orch without other machines.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@sandbox.command()
@hosts_option
def up(hosts_file: Path) -> int:
    """Start the hosts of FILE and leave them running."""
    from orchestrator.commands.sandbox import up as command
    from orchestrator.ui.display import Display

    return command(hosts_file, Display())


@sandbox.command()
@hosts_option
def down(hosts_file: Path) -> int:
    """Stop the hosts of FILE; their files stay."""
    from orchestrator.commands.sandbox import down as command
    from orchestrator.ui.display import Display

    return command(hosts_file, Display())
