"""Verbs that look at hosts and runs, and change nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from orchestrator.cli.help import completion
from orchestrator.cli.options import (
    RUN,
    age,
    from_start_option,
    node_timeout_option,
    seconds,
    target,
    target_options,
)


@click.command()
@target_options
@click.option(
    "--backend",
    type=click.Choice(["auto", "nccl", "gloo", "mpi"]),
    default="auto",
    show_default=True,
    help="The backend that the run would use; auto: nccl if every host has GPUs, else gloo.",
)
@click.option("--port", type=click.IntRange(1, 65535), metavar="N", help="The master port that the run would use.")
@click.option("--deep", is_flag=True, help="Also time the links, and rehearse an all-reduce.")
@click.option(
    "--mesh", is_flag=True, help="Also check that every host can log in to every other by SSH, as mpirun does."
)
@click.option(
    "--html", type=click.Path(path_type=Path), metavar="FILE", help="Write a page with heat maps to FILE."
)
@click.option("--json", "as_json", is_flag=True, help="Print all facts and findings as one JSON object.")
@click.option("--fix", is_flag=True, help="Offer the mends that need no root, one by one.")
@click.option("--yes", is_flag=True, help="With --fix: make all mends without asking.")
def doctor(
    backend: str,
    port: int | None,
    deep: bool,
    mesh: bool,
    html: Path | None,
    as_json: bool,
    fix: bool,
    yes: bool,
    **options: Any,
) -> int:
    """Check every host and every pair of hosts.

    orch also checks that all hosts agree, and names a remedy for each problem.
    """
    from orchestrator.commands.doctor import doctor as command
    from orchestrator.operations.survey import DoctorOptions
    from orchestrator.ui.display import Display

    display = Display(as_json=as_json)

    def agree(question: str) -> bool:
        if yes:
            display.note(question)
        return yes or display.confirm(question)

    asked = DoctorOptions(backend, port, deep, html, mesh, agree if fix else None)
    return command(target(options), asked, display)


@click.command()
@target_options
@click.option("-a", "--all", "everything", is_flag=True, help="Also list runs that have ended.")
@click.option("--json", "as_json", is_flag=True, help="Print each run as one line of JSON.")
def ps(everything: bool, as_json: bool, **options: Any) -> int:
    """List the runs on all hosts.

    Processes that killed runs left behind are listed, too.
    """
    from orchestrator.commands.ps import ps as command
    from orchestrator.ui.display import Display

    return command(target(options), everything, Display(as_json=as_json))


@click.command()
@target_options
@node_timeout_option
@click.option("-f", "--follow", is_flag=True, help="Go on to print new output as it arrives.")
@click.option(
    "--rank", "ranks", type=click.IntRange(min=0), metavar="N", multiple=True, help="Only this rank; repeatable."
)
@click.option("--node", metavar="NAME", shell_complete=completion.hosts, help="Only the ranks of this host.")
@from_start_option
@click.option("--since", metavar="AGE", help="Only output from the last AGE: 90s, 10m, 2h.")
@click.option("-v", "--verbose", is_flag=True, help="Also print torchrun's own output.")
@click.argument("run_id", type=RUN, required=False, metavar="[RUN]", shell_complete=completion.runs)
def logs(
    run_id: str | None,
    follow: bool,
    ranks: tuple[int, ...],
    node: str | None,
    since: str | None,
    from_start: bool,
    node_timeout: float,
    verbose: bool,
    **options: Any,
) -> int:
    """Print the output of the ranks of RUN, read from the hosts.

    Without RUN, print the output of the only active run.
    """
    from orchestrator.commands.logs import logs as command
    from orchestrator.operations.run.reading import LogSelection
    from orchestrator.ui.display import Display

    selection = LogSelection(ranks or None, node, None if since is None else age(since), follow, from_start)
    return command(target(options), run_id, selection, node_timeout, Display(verbose=verbose))


@click.command()
@target_options
@click.option("--full", is_flag=True, help="Also print the stack of one rank of each group.")
@click.option("--native", is_flag=True, help="Also print frames of compiled code; implies --full.")
@click.option("--watch", type=seconds, metavar="SECONDS", help="Look again every so many seconds, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print all threads of all ranks as one JSON object.")
@click.argument("run_id", type=RUN, required=False, metavar="[RUN]", shell_complete=completion.runs)
def stacks(
    run_id: str | None, full: bool, native: bool, watch: float | None, as_json: bool, **options: Any
) -> int:
    """Show what each rank of RUN is doing now.

    Ranks that do the same are one line. Without RUN, look at the only active run.
    """
    from orchestrator.commands.stacks import stacks as command
    from orchestrator.ui.display import Display

    return command(target(options), run_id, full, native, watch, Display(as_json=as_json))
