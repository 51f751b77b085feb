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
    click.option(
        "--max-restarts",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        metavar="N",
        help="Start a failed run again, with spares in place of lost hosts.",
    ),
    click.option("--resume", metavar="RUN", help="Begin with an earlier run's outputs in each working folder."),
    click.option("-v", "--verbose", is_flag=True, help="Show every event."),
    click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="WORKLOAD [-- ARGS]"),
)

seconds = click.FloatRange(min=1.0)
node_timeout_option = click.option(
    "--node-timeout",
    # Half of it must hold a sign of life, and those come every two seconds.
    type=click.FloatRange(min=6.0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="After how long a silence a host is lost.",
)
runs_dir_option = click.option(
    "--runs-dir",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    envvar="ORCH_RUNS_DIR",
    metavar="DIR",
    help="Where runs are recorded on this machine.",
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
@node_timeout_option
@runs_dir_option
@click.option("-d", "--detach", is_flag=True, help="Start it, print its id, and leave it running.")
@click.option(
    "--on-disconnect",
    metavar="continue|stop:SECONDS",
    default="continue",
    show_default=True,
    help="What a host does without this machine.",
)
@click.option("--collect-every", type=seconds, metavar="SECONDS", help="Fetch outputs while it runs, too.")
@click.option("--dry-run", is_flag=True, help="Show the plan and stop: the same as orch plan.")
@click.option("--json", "as_json", is_flag=True, help="One JSON event a line on stdout, nothing else.")
def run(dry_run: bool, as_json: bool, **options: Any) -> int:
    r"""Run WORKLOAD on every host: a bundled name (train, message-passing), a script, or -m MODULE.

    What follows -- goes to the script untouched. Ctrl-C stops the run; a lost terminal or Ctrl-\ leaves it
    running, for orch attach.
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
@runs_dir_option
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
@click.option("-a", "--all", "everything", is_flag=True, help="Runs that have ended, too.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a run and line.")
def ps(everything: bool, as_json: bool, **options: Any) -> int:
    """List the runs on all hosts, and the processes that a killed one left over."""
    from orchestrator.commands.ps import ps as command
    from orchestrator.display import Display

    return command(_target(options), everything, Display(as_json=as_json))


@cli.command()
@target_options
@node_timeout_option
@click.option("-f", "--follow", is_flag=True, help="Go on with what is printed from now on.")
@click.option("--rank", "ranks", type=click.IntRange(min=0), multiple=True, help="Only this rank; repeatable.")
@click.option("--node", metavar="NAME", help="Only the ranks of this host.")
@click.option("--since", metavar="AGE", help="Only what is younger: 90s, 10m, 2h.")
@click.option("-v", "--verbose", is_flag=True, help="torchrun's own words, too.")
@click.argument("run_id", required=False, metavar="RUN")
def logs(
    run_id: str | None,
    follow: bool,
    ranks: tuple[int, ...],
    node: str | None,
    since: str | None,
    node_timeout: float,
    verbose: bool,
    **options: Any,
) -> int:
    """Print what the ranks of RUN printed, from the hosts; without RUN, of the only run there is."""
    from orchestrator.commands.logs import Wanted
    from orchestrator.commands.logs import logs as command
    from orchestrator.display import Display

    wanted = Wanted(ranks or None, node, None if since is None else _age(since), follow)
    return command(_target(options), run_id, wanted, node_timeout, Display(verbose=verbose))


@cli.command()
@target_options
@node_timeout_option
@runs_dir_option
@click.option("--json", "as_json", is_flag=True, help="One JSON event a line on stdout, nothing else.")
@click.option("-v", "--verbose", is_flag=True, help="Show every event.")
@click.argument("run_id", required=False, metavar="RUN")
def attach(
    run_id: str | None, node_timeout: float, runs_dir: Path, as_json: bool, verbose: bool, **options: Any
) -> int:
    """Take RUN up again, from any machine that reaches its hosts, and see it to its end.

    Shows what this machine has not recorded yet, then what comes, collects the outputs, and ends as orch run
    would have. Without RUN: the only run there is.
    """
    from orchestrator.commands.attach import attach as command
    from orchestrator.display import Display

    return command(_target(options), run_id, runs_dir, node_timeout, Display(as_json=as_json, verbose=verbose))


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
    from orchestrator.commands.prepare import RunOptions
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
    detach, max_restarts = options.get("detach", False), options["max_restarts"]
    if detach and max_restarts:
        raise UsageError(
            "--detach and --max-restarts: restarts are made by the process that is left out",
            remedy="leave --detach out and start orch in tmux, or with nohup",
        )
    return RunOptions(
        spec,
        source,
        options["runs_dir"],
        resume=options["resume"],
        check=not options["no_doctor"],
        detach=detach,
        max_restarts=max_restarts,
        node_timeout=options.get("node_timeout", 30.0),
        on_disconnect=_on_disconnect(options.get("on_disconnect", "continue")),
        collect_every=options.get("collect_every"),
    )


def _nproc(value: str) -> int | None:
    if value == "auto":
        return None
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise UsageError(f"--nproc {value}: expected auto or a number from 1 on")
    return int(value)


def _on_disconnect(value: str) -> float | None:
    word, colon, seconds = value.partition(":")
    if value == "continue":
        return None
    if word != "stop" or not colon or not seconds.isascii() or not seconds.isdigit() or int(seconds) < 10:
        raise UsageError(f"--on-disconnect {value}: expected continue, or stop:SECONDS with at least 10")
    return float(seconds)


def _age(value: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    number, unit = (value[:-1], value[-1:]) if value[-1:] in units else (value, "s")
    if not number.isascii() or not number.isdigit():
        raise UsageError(f"--since {value}: expected an age such as 90s, 10m or 2h")
    return float(int(number) * units[unit])


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
