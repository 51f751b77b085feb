"""Verbs that start runs and follow them."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.help import completion
from orchestrator.cli.launching import LaunchCommand, asked
from orchestrator.cli.options import (
    RUN,
    format_option,
    from_start_option,
    grace_option,
    hang_timeout_option,
    launch_options,
    node_timeout_option,
    notify_option,
    on_hang_option,
    output_option,
    runs_dir_option,
    seconds,
    target,
    target_options,
    then_option,
)


def hidden(parameter: click.Parameter) -> click.Parameter:
    """Return an option that the help does not list."""
    copied = copy.copy(parameter)
    assert isinstance(copied, click.Option)
    copied.hidden = True
    return copied


@click.command(cls=LaunchCommand)
@target_options
@launch_options
@node_timeout_option
@runs_dir_option
@click.option("-d", "--detach", is_flag=True, help="Start the run, print its id, and leave it running.")
@click.option(
    "--on-disconnect",
    metavar="continue|stop:SECONDS",
    default="continue",
    show_default=True,
    help="What hosts do when this machine is gone: let the run go on, or end it after SECONDS.",
)
@grace_option
@click.option("--collect-every", type=seconds, metavar="SECONDS", help="Also fetch outputs during the run.")
@hang_timeout_option
@on_hang_option
@then_option
@notify_option
@click.option("--yes", is_flag=True, help="Download and send the data that the workload needs without asking.")
@click.option("--dry-run", is_flag=True, help="Show the plan and start nothing, as orch plan does.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON event per line on stdout, and nothing else.")
def run(dry_run: bool, as_json: bool, yes: bool, **options: Any) -> int:
    r"""Run WORKLOAD on every host.

    WORKLOAD is a bundled name (see orch workloads), a script, or -m MODULE. The words after its name go to it,
    except orch's own options; after --, all do. Ctrl-C stops the run. A lost terminal or Ctrl-\ leaves the run
    going, and orch attach takes it over.
    """
    from orchestrator.ui.display import Display

    display = Display(as_json=as_json, verbose=options["verbose"] or options["debug"])
    agree = (lambda question: True) if yes else display.confirm if sys.stdin.isatty() else None
    machines, launching, notes = asked(options)
    launching = replace(launching, agree=agree)
    display.notes(notes)
    if dry_run:
        from orchestrator.commands.plan import plan

        return plan(machines, launching, "json" if as_json else "table", None, display, offline=False)
    from orchestrator.commands.run import run

    return run(machines, launching, display)


@click.command(cls=LaunchCommand)
@target_options
@launch_options
@runs_dir_option
@format_option
@output_option
@click.option(
    "--offline", is_flag=True, help="Connect to no node; assume the facts that the inventory does not give."
)
def plan(form: str, output: Path | None, offline: bool, as_json: bool, dry_run: bool, **options: Any) -> int:
    """Show the exact command of every node without running it.

    Takes the options of orch run, too.
    """
    from orchestrator.commands.plan import plan as command
    from orchestrator.ui.display import Display

    display = Display(verbose=options["verbose"])
    machines, launching, notes = asked(options)
    display.notes(notes)
    return command(machines, launching, "json" if as_json else form, output, display, offline=offline)


# A word means the same to both verbs, so that plan shows what run would do.
plan.params += [hidden(each) for each in run.params if each.name not in {own.name for own in plan.params}]


@click.group(invoke_without_command=True)
@click.pass_context
def workloads(context: click.Context) -> int:
    """List the bundled scripts, or copy one to change it."""
    from orchestrator.operations.run.source import described
    from orchestrator.ui.display import Display

    if context.invoked_subcommand is None:
        Display().named(described())
    return 0


@workloads.command(name="copy")
@click.argument("name", shell_complete=completion.bundled_workloads)
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path(), metavar="[DIR]")
@click.option("--force", is_flag=True, help="Replace files that differ.")
def copy_workload(name: str, folder: Path, force: bool) -> int:
    """Copy the bundled workload NAME, and the files it needs, to DIR.

    DIR is the current folder by default. If a file there has the same name and differs, orch copies nothing.
    """
    from orchestrator.commands.workloads import copy as command
    from orchestrator.ui.display import Display

    return command(name, folder, force, Display())


@click.command()
@target_options
@node_timeout_option
@runs_dir_option
@from_start_option
@click.option(
    "--on-hang",
    type=click.Choice(["report", "stop"]),
    default="report",
    show_default=True,
    help="What follows when no rank makes progress: only the report, or the end of the run.",
)
@then_option
@notify_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON event per line on stdout, and nothing else.")
@click.option("-v", "--verbose", is_flag=True, help="Show every event.")
@click.argument("run_id", type=RUN, required=False, metavar="[RUN]", shell_complete=completion.runs)
def attach(
    run_id: str | None,
    node_timeout: float,
    runs_dir: Path,
    as_json: bool,
    verbose: bool,
    from_start: bool,
    on_hang: str,
    then: str | None,
    notify: tuple[str, ...],
    **options: Any,
) -> int:
    """Take over RUN, and see it to its end.

    This works from any machine that reaches the hosts. orch shows the output that this machine has not recorded
    yet, then new output, collects the outputs, and exits as orch run would have. Without RUN, it takes over the
    only active run.
    """
    from orchestrator.commands.attach import attach as command
    from orchestrator.ui.display import Display

    display = Display(as_json=as_json, verbose=verbose)
    return command(target(options), run_id, runs_dir, node_timeout, from_start, on_hang, then, notify, display)
