"""The command line: parse the arguments, run one verb, print its error if any, and exit with its code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from orchestrator import __version__
from orchestrator.errors import Interrupted, OrchError, UsageError
from orchestrator.options import (
    age,
    format_option,
    from_start_option,
    grace_option,
    hosts_option,
    launch,
    launch_options,
    node_timeout_option,
    runs_dir_option,
    seconds,
    size,
    target,
    target_options,
)

BUG = 70
# Most files that macOS lets a process open, whatever the hard limit says (OPEN_MAX).
MOST_FILES = 10240
CONTEXT = {"help_option_names": ["-h", "--help"]}


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="orch")
def cli() -> None:
    """Run multi-node PyTorch training on machines that answer SSH, with one command."""


@cli.command()
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
@click.option("--dry-run", is_flag=True, help="Show the plan and start nothing, as orch plan does.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON event per line on stdout, and nothing else.")
def run(dry_run: bool, as_json: bool, **options: Any) -> int:
    r"""Run WORKLOAD on every host: a bundled name (see orch workloads), a script, or -m MODULE.

    The words after -- go to the script untouched. Ctrl-C stops the run. A lost terminal or Ctrl-\ leaves the run
    going, and orch attach takes it over.
    """
    from orchestrator.ui.display import Display

    display = Display(as_json=as_json, verbose=options["verbose"] or options["debug"])
    asked, launching = target(options), launch(options)
    if dry_run:
        from orchestrator.commands.plan import plan

        return plan(asked, launching, "json" if as_json else "table", display, offline=False)
    from orchestrator.commands.run import run

    return run(asked, launching, display)


@cli.command()
@target_options
@launch_options
@runs_dir_option
@format_option
@click.option(
    "--offline", is_flag=True, help="Connect to no node; assume the facts that the inventory does not give."
)
def plan(form: str, offline: bool, **options: Any) -> int:
    """Show the exact command of every node without running it."""
    from orchestrator.commands.plan import plan as command
    from orchestrator.ui.display import Display

    return command(target(options), launch(options), form, Display(verbose=options["verbose"]), offline=offline)


@cli.command()
def workloads() -> int:
    """List the training and message-passing scripts that come with orch."""
    from orchestrator.operations.run.source import described
    from orchestrator.ui.display import Display

    Display().named(described())
    return 0


@cli.command(name="exec")
@target_options
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, required=True, metavar="-- CMD [ARGS]")
def execute(argv: Sequence[str], **options: Any) -> int:
    """Run one command on every host, and show equal output once."""
    from orchestrator.commands.exec import run_everywhere as command
    from orchestrator.ui.display import Display

    return command(target(options), argv, Display())


@cli.command()
@target_options
@click.option(
    "--backend",
    type=click.Choice(["auto", "nccl", "gloo", "mpi"]),
    default="auto",
    show_default=True,
    help="The backend that the run would use; auto: nccl if every host has GPUs, else gloo.",
)
@click.option("--port", type=click.IntRange(1, 65535), help="The master port that the run would use.")
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
    """Check every host, every pair of hosts, and that all agree; name a remedy for each problem."""
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


@cli.command()
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
    """Push code and data to every host, verified by hash, and build the environments there."""
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


@cli.command()
@target_options
@click.option("-a", "--all", "everything", is_flag=True, help="Also list runs that have ended.")
@click.option("--json", "as_json", is_flag=True, help="Print each run as one line of JSON.")
def ps(everything: bool, as_json: bool, **options: Any) -> int:
    """List the runs on all hosts, and the processes that killed runs left behind."""
    from orchestrator.commands.ps import ps as command
    from orchestrator.ui.display import Display

    return command(target(options), everything, Display(as_json=as_json))


@cli.command()
@target_options
@node_timeout_option
@click.option("-f", "--follow", is_flag=True, help="Go on to print new output as it arrives.")
@click.option("--rank", "ranks", type=click.IntRange(min=0), multiple=True, help="Only this rank; repeatable.")
@click.option("--node", metavar="NAME", help="Only the ranks of this host.")
@from_start_option
@click.option("--since", metavar="AGE", help="Only output from the last AGE: 90s, 10m, 2h.")
@click.option("-v", "--verbose", is_flag=True, help="Also print torchrun's own output.")
@click.argument("run_id", required=False, metavar="[RUN]")
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


@cli.command()
@target_options
@node_timeout_option
@runs_dir_option
@from_start_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON event per line on stdout, and nothing else.")
@click.option("-v", "--verbose", is_flag=True, help="Show every event.")
@click.argument("run_id", required=False, metavar="[RUN]")
def attach(
    run_id: str | None,
    node_timeout: float,
    runs_dir: Path,
    as_json: bool,
    verbose: bool,
    from_start: bool,
    **options: Any,
) -> int:
    """Take over RUN, from any machine that reaches its hosts, and see it to its end.

    Show the output that this machine has not recorded yet, then new output, collect the outputs, and exit as orch
    run would have. Without RUN, take over the only active run.
    """
    from orchestrator.commands.attach import attach as command
    from orchestrator.ui.display import Display

    display = Display(as_json=as_json, verbose=verbose)
    return command(target(options), run_id, runs_dir, node_timeout, from_start, display)


@cli.command()
@target_options
@click.argument("run_id", required=False, metavar="[RUN]")
@click.option("--all", "everything", is_flag=True, help="Stop every run on the hosts.")
@grace_option
def stop(run_id: str | None, everything: bool, grace: float | None, **options: Any) -> int:
    """End RUN on every host, and return when no process of the run is left."""
    from orchestrator.commands.stop import stop as command
    from orchestrator.ui.display import Display

    if (run_id is None) != everything:
        raise UsageError("say which run to stop", remedy="orch stop RUN, or orch stop --all")
    return command(target(options), run_id, grace, Display())


@cli.group()
def sandbox() -> None:
    """Control the embedded cluster: SSH servers on this machine, to try orch without other machines."""


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


def raise_open_files() -> None:
    """Raise this process's limit on open files: each host takes several, and macOS begins with 256 in all."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``argv`` as the ``orch`` program does. Never return: exit with a code of ``errors.py``."""
    if sys.platform == "win32":
        click.echo("error: orch runs on Linux and macOS; on Windows, run it in WSL: wsl --install", err=True)
        os._exit(UsageError.exit_code)
    raise_open_files()
    try:
        code = cli.main(args=None if argv is None else list(argv), prog_name="orch", standalone_mode=False)
    except click.exceptions.Exit as error:
        code = error.exit_code
    except click.Abort:
        code = _report(Interrupted("interrupted"))
    except click.ClickException as error:
        error.show()
        code = UsageError.exit_code
    except KeyboardInterrupt:
        code = _report(Interrupted("interrupted"))
    except BrokenPipeError:
        # The reader of stdout has ended, as "| head" does. That must not end a run.
        click.echo("stdout was closed; a run that has started goes on until orch stop RUN", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 1
    except OrchError as error:
        code = _report(error)
    except Exception:
        code = BUG
        traceback.print_exc()
        click.echo("this is a bug in orch; please report it with the lines above and the run's folder", err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    # Daemon threads may still wait for a host that never answers; they must not delay the end.
    os._exit(code if isinstance(code, int) else 0)


def _report(error: OrchError) -> int:
    from orchestrator.ui.display import Display

    if error.exit_code == BUG and error.__cause__ is not None:
        traceback.print_exception(error.__cause__)
    Display().error(error)
    return error.exit_code
