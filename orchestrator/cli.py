"""argv -> one command -> exit code. The only place that catches errors and has them printed."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from orchestrator import __version__
from orchestrator.errors import Interrupted, OrchError, UsageError

BUG = 70
CONTEXT = {"help_option_names": ["-h", "--help"]}


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="orch")
def cli() -> None:
    """Run multi-node PyTorch training on machines that answer SSH, with one command."""


def _stack(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several click options as one decorator."""
    return lambda command: functools.reduce(lambda inner, option: option(inner), reversed(options), command)


hosts_option = click.option(
    "--hosts",
    "hosts_file",
    type=click.Path(path_type=Path),
    envvar="ORCH_HOSTS",
    default=Path("hosts.yaml"),
    show_default=True,
    metavar="FILE",
    help="The inventory (also $ORCH_HOSTS).",
)

target_options = _stack(
    hosts_option,
    click.option("--nodes", metavar="EXPR", help="Names, globs, ranges gpu[01-04], or a count."),
    click.option(
        "--connect-timeout",
        type=click.FloatRange(min=0.1),
        default=10.0,
        show_default=True,
        metavar="SECONDS",
        help="How long a host may take to answer.",
    ),
    click.option(
        "--accept-new-host-keys",
        is_flag=True,
        help="Record the keys of hosts seen for the first time in ~/.ssh/known_hosts.",
    ),
    click.option(
        "--fanout", type=click.IntRange(min=1), default=64, show_default=True, help="Hosts handled at once."
    ),
)

launch_options = _stack(
    click.option("-m", "--module", metavar="MODULE", help="Run a module, as python -m does."),
    click.option(
        "--project",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="The folder to sync; by default the nearest one with .git or pyproject.toml around the script.",
    ),
    click.option("--nproc", metavar="auto|N", default="auto", show_default=True, help="Processes per node."),
    click.option(
        "--backend", type=click.Choice(["auto", "nccl", "gloo", "mpi"]), default="auto", show_default=True
    ),
    click.option("--env", "env", multiple=True, metavar="K=V", help="A variable for every rank; repeatable."),
    click.option("--port", type=click.IntRange(1, 65535), help="The master port; by default a free one."),
    click.option("--rdzv-backend", type=click.Choice(["static", "c10d"]), help="How torchruns find each other."),
    click.option("--rdzv-id", metavar="ID", help="c10d: the rendezvous id; by default the run's."),
    click.option("--rdzv-endpoint", metavar="HOST:PORT", help="c10d: where they meet; by default the master."),
    click.option("--debug", is_flag=True, help="TORCH_DISTRIBUTED_DEBUG and NCCL_DEBUG on every rank, and -v."),
    click.option("--no-doctor", is_flag=True, help="Start even if the preflight says that it will fail."),
    click.option("--resume", metavar="RUN", help="Begin with an earlier run's outputs in each working folder."),
    click.option(
        "--runs-dir",
        type=click.Path(path_type=Path),
        default=Path("runs"),
        show_default=True,
        envvar="ORCH_RUNS_DIR",
        metavar="DIR",
        help="Where runs are recorded on this machine.",
    ),
    click.option("-v", "--verbose", is_flag=True, help="Show every event."),
    click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="WORKLOAD [-- ARGS]"),
)

format_option = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "sh", "ps1", "json"]),
    default="table",
    show_default=True,
    help="How to write the plan.",
)


@cli.command()
@target_options
@launch_options
@click.option("--dry-run", is_flag=True, help="Show the plan and stop: the same as orch plan.")
@click.option("--json", "as_json", is_flag=True, help="One JSON event a line on stdout, nothing else.")
def run(dry_run: bool, as_json: bool, **options: Any) -> int:
    """Run WORKLOAD on every host: a bundled name (train, message-passing), a script, or -m MODULE.

    What follows -- goes to the script untouched.
    """
    from orchestrator.commands import run as command
    from orchestrator.display import Display

    display = Display(as_json=as_json, verbose=options["verbose"] or options["debug"])
    target, launch = _target(options), _launch(options)
    if dry_run:
        made = command.preview(target, launch, display, offline=False)
        display.plan(made, "json" if as_json else "table")
        return 0
    return command.run(target, launch, display)


@cli.command()
@target_options
@launch_options
@format_option
@click.option("--offline", is_flag=True, help="Ask no node; assume what the inventory does not say.")
def plan(form: str, offline: bool, **options: Any) -> int:
    """Show the exact command of every node; run nothing."""
    from orchestrator.commands import run as command
    from orchestrator.display import Display

    display = Display(verbose=options["verbose"])
    display.plan(command.preview(_target(options), _launch(options), display, offline=offline), form)
    return 0


@cli.command(name="exec")
@target_options
@click.argument("argv", nargs=-1, type=click.UNPROCESSED, required=True, metavar="-- CMD [ARGS]")
def execute(argv: Sequence[str], **options: Any) -> int:
    """Run one command on every host; equal output is shown once."""
    from orchestrator.commands.exec import execute as command
    from orchestrator.display import Display

    return command(_target(options), argv, Display())


@cli.command()
@target_options
def doctor(**options: Any) -> int:
    """Check that every host could take part in a run."""
    from orchestrator.commands.doctor import doctor as command
    from orchestrator.display import Display

    return command(_target(options), Display())


@cli.command()
@target_options
@click.option("--project", type=click.Path(path_type=Path, file_okay=False, exists=True), metavar="DIR")
def sync(project: Path | None, **options: Any) -> int:
    """Push the project folder to every host, verified by hash."""
    from orchestrator.commands.sync import sync as command
    from orchestrator.display import Display

    return command(_target(options), project, Display())


@cli.command()
@target_options
@click.argument("run_id", required=False, metavar="RUN")
@click.option("--all", "everything", is_flag=True, help="Whatever runs on the hosts.")
@click.option("--grace", type=click.FloatRange(min=0), default=5.0, show_default=True, metavar="SECONDS")
def stop(run_id: str | None, everything: bool, grace: float, **options: Any) -> int:
    """End RUN on every host; returns when no process of it is left."""
    from orchestrator.commands.stop import stop as command
    from orchestrator.display import Display

    if (run_id is None) != everything:
        raise UsageError("say which run to stop", remedy="orch stop RUN, or orch stop --all")
    return command(_target(options), run_id, grace, Display())


@cli.group()
def sandbox() -> None:
    """The embedded cluster: SSH servers on this machine, for trying orch without any other."""


@sandbox.command()
@hosts_option
def up(hosts_file: Path) -> int:
    """Start the hosts of FILE and leave them running."""
    from orchestrator.commands.sandbox import up as command
    from orchestrator.display import Display

    return command(hosts_file, Display())


@sandbox.command()
@hosts_option
def down(hosts_file: Path) -> int:
    """End them; their files stay."""
    from orchestrator.commands.sandbox import down as command
    from orchestrator.display import Display

    return command(hosts_file, Display())


def _target(options: dict[str, Any]) -> Any:
    """The shared options as a Target."""
    from orchestrator.commands.session import Target
    from orchestrator.remote.ssh import Settings

    settings = Settings(options["connect_timeout"], options["accept_new_host_keys"])
    return Target(options["hosts_file"], options["nodes"], settings, options["fanout"])


def _launch(options: dict[str, Any]) -> Any:
    """The launch options as RunOptions; raises UsageError for what cannot be meant."""
    from orchestrator.commands.run import RunOptions
    from orchestrator.commands.workload import bundled, resolve
    from orchestrator.core.plan import RunSpec

    words = list(options["words"])
    if options["module"] is None and not words:
        known = ", ".join(bundled())
        raise UsageError("no workload given", remedy=f"name one ({known}), a script, or -m MODULE")
    name = options["module"] or words.pop(0)
    source = resolve(name, is_module=options["module"] is not None, project=options["project"])
    spec = RunSpec(
        workload=source.workload,
        args=tuple(words),
        nproc=_nproc(options["nproc"]),
        backend=options["backend"],
        env=dict(_variable(entry) for entry in options["env"]),
        port=options["port"],
        rdzv_backend=options["rdzv_backend"],
        rdzv_id=options["rdzv_id"],
        rdzv_endpoint=options["rdzv_endpoint"],
        debug=options["debug"],
    )
    return RunOptions(spec, source, options["runs_dir"], options["resume"], not options["no_doctor"])


def _nproc(value: str) -> int | None:
    if value == "auto":
        return None
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise UsageError(f"--nproc {value}: expected auto or a number from 1 on")
    return int(value)


def _variable(entry: str) -> tuple[str, str]:
    name, equals, value = entry.partition("=")
    if not equals or not name.isidentifier() or not name.isascii():
        raise UsageError(f"--env {entry!r}: expected NAME=VALUE")
    return name, value


def main(argv: Sequence[str] | None = None) -> None:
    """Entry of the ``orch`` program. Never returns; every way out is an exit code of ``errors.py``."""
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
        # The reader of our output has gone, as with "| head". That is no reason to end a training.
        click.echo("nobody reads the output any more; a run that began goes on until orch stop RUN", err=True)
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
    from orchestrator.display import Display

    if error.exit_code == BUG and error.__cause__ is not None:
        traceback.print_exception(error.__cause__)
    Display().error(error)
    return error.exit_code
