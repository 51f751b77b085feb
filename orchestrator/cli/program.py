"""The program ``orch``: parse the arguments, run one verb, print its error if any, and exit with its code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress

import click

from orchestrator.cli.help.pages import with_pages
from orchestrator.cli.help.refusals import refusal
from orchestrator.cli.help.verbs import completion, explain
from orchestrator.cli.help.version import show_versions
from orchestrator.cli.looking import doctor, logs, ps, stacks
from orchestrator.cli.meaning import suggestion, verb_suggestion
from orchestrator.cli.recorded.history import runs
from orchestrator.cli.recorded.plotting import metrics, plot
from orchestrator.cli.recorded.serving import dashboard
from orchestrator.cli.running import attach, plan, run, workloads
from orchestrator.cli.sending import execute, sync
from orchestrator.cli.starting import hosts, init, keys
from orchestrator.cli.tidying import sandbox, stop
from orchestrator.errors import CLOSED_PIPE, Interrupted, OrchError, UsageError

BUG = 70
# Most files that macOS lets a process open, whatever the hard limit says (OPEN_MAX).
MOST_FILES = 10240
# Underscores and dashes are the same in the names of options and verbs.
CONTEXT = {"help_option_names": ["-h", "--help"], "token_normalize_func": lambda word: word.replace("_", "-")}


@click.group(context_settings=CONTEXT, invoke_without_command=True)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=show_versions,
    help="Show the versions of orch, Python and torch.",
)
@click.pass_context
def cli(context: click.Context) -> None:
    """Run multi-node PyTorch training on machines that answer SSH, with one command."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


for verb in (
    init,
    hosts,
    keys,
    run,
    plan,
    workloads,
    execute,
    doctor,
    sync,
    ps,
    logs,
    stacks,
    attach,
    stop,
    runs,
    dashboard,
    sandbox,
    explain,
    completion,
):
    cli.add_command(verb)
for measured in (metrics, plot):
    runs.add_command(measured)
with_pages(cli)


def raise_open_files() -> None:
    """Raise this process's limit on open files: each host takes several, and macOS begins with 256 in all."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def refuse_unknown_verb(words: Sequence[str]) -> None:
    """Raise UsageError, with the right verb, if the first word is none of orch's."""
    verbs = list(cli.commands)
    if not words or words[0].startswith("-") or words[0].replace("_", "-") in verbs:
        return
    from orchestrator.operations.run.source import bundled

    near = verb_suggestion(words, verbs, list(bundled()))
    raise UsageError(f"orch has no verb {words[0]}", remedy=near or f"verbs: {', '.join(verbs)}")


def no_such_option(error: click.NoSuchOption) -> UsageError:
    """Return an error with the option that was meant, for an option that a verb does not have."""
    context = error.ctx
    known = [] if context is None else [name for each in context.command.get_params(context) for name in each.opts]
    verb = context.command_path if context is not None else "orch"
    near = suggestion(error.option_name, [name for name in known if name.startswith("--")])
    if near is None and context is not None and context.command.name == "exec":
        near = "the command follows --: orch exec -- COMMAND"
    elif near is None and context is not None and context.parent is None:
        near = f"options follow the verb: orch VERB {error.option_name} ..."
    return UsageError(f"{verb} has no option {error.option_name}", remedy=near or f"see {verb} --help")


def end_of_output() -> int:
    """Write what is left to stdout and stderr, drop what nobody reads, and return the exit code for that, or 0."""
    closed = 0
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            closed = CLOSED_PIPE
    return closed


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``argv`` as the ``orch`` program does. Never return: exit with a code of ``errors.py``."""
    if sys.platform == "win32":
        click.echo("error: orch runs on Linux and macOS; on Windows, run it in WSL: wsl --install", err=True)
        os._exit(UsageError.exit_code)
    raise_open_files()
    try:
        code = _exit_code(sys.argv[1:] if argv is None else list(argv))
    except BrokenPipeError:
        # The reader of the output has ended, as "| head" does. A run that has started tells of it itself.
        code = CLOSED_PIPE
    closed = end_of_output()
    # Daemon threads may still wait for a host that never answers; they must not delay the end.
    os._exit(code or closed)


def _exit_code(words: list[str]) -> int:
    """Run ``words``, print the error if there is one, and return the exit code. Raises BrokenPipeError."""
    try:
        refuse_unknown_verb(words)
        code = cli.main(args=words, prog_name="orch", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort:
        return _report(Interrupted("interrupted"))
    except click.NoSuchOption as error:
        return _report(no_such_option(error))
    except click.ClickException as error:
        return _report(refusal(error))
    except KeyboardInterrupt:
        return _report(Interrupted("interrupted"))
    except SystemExit:
        # Where it is not the one that ends the program, click exits only because a pipe is closed.
        return CLOSED_PIPE
    except BrokenPipeError:
        raise
    except OrchError as error:
        return _report(error)
    except Exception:
        traceback.print_exc()
        click.echo("this is a bug in orch; please report it with the lines above and the run's folder", err=True)
        return BUG


def _report(error: OrchError) -> int:
    from orchestrator.ui.display import Display

    if error.exit_code == BUG and error.__cause__ is not None:
        traceback.print_exception(error.__cause__)
    Display().error(error)
    return error.exit_code
