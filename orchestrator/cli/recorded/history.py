"""``orch runs``: the runs that this machine has recorded."""

from __future__ import annotations

import time
from pathlib import Path

import click

from orchestrator.cli.help import completion
from orchestrator.cli.options import age, runs_dir_option
from orchestrator.errors import UsageError

# How many runs are listed without --all.
MOST = 20
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
run_argument = click.argument("word", metavar="RUN", shell_complete=completion.runs)


@click.group(invoke_without_command=True)
@runs_dir_option
@click.option("-a", "--all", "everything", is_flag=True, help=f"List all runs, not only the newest {MOST}.")
@click.option("-n", "most", type=click.IntRange(min=1), default=MOST, metavar="N", help="List the newest N runs.")
@click.option("--failed", is_flag=True, help="Only runs that failed.")
@click.option("--running", is_flag=True, help="Only runs that go on.")
@click.option("--workload", metavar="NAME", help="Only runs of this workload.")
@click.option("--tag", metavar="TAG", help="Only runs with this tag.")
@click.option("--since", metavar="AGE", help="Only runs that began in the last AGE: 90s, 10m, 2h, 7d.")
@click.option("--search", metavar="TEXT", help="Only runs with TEXT in their id, name, command, tags or notes.")
@json_option
@click.pass_context
def runs(
    context: click.Context,
    runs_dir: Path,
    everything: bool,
    most: int,
    failed: bool,
    running: bool,
    workload: str | None,
    tag: str | None,
    since: str | None,
    search: str | None,
    as_json: bool,
) -> int:
    """List the runs that were started here, and how they ended.

    RUN, here and in all other verbs, is the id of a run or its beginning, a name that orch run --name gave it,
    or one of @last, @last-failed and @last-ok.
    """
    context.obj = runs_dir
    if context.invoked_subcommand is not None:
        return 0
    from orchestrator.commands.runs import listed
    from orchestrator.core.history.listed import Selection
    from orchestrator.ui.display import Display

    states = (("failed",) if failed else ()) + (("running", "left") if running else ())
    began = None if since is None else time.time() - age(since)
    selection = Selection(states, workload, began, tag, search)
    return listed(runs_dir, selection, None if everything else most, Display(as_json=as_json))


def base(context: click.Context, runs_dir: Path | None) -> Path:
    """Return the runs folder, given before or after the verb."""
    found = runs_dir if runs_dir is not None else context.obj
    assert isinstance(found, Path)
    return found


own_runs_dir = click.option("--runs-dir", type=click.Path(path_type=Path), hidden=True)


@runs.command()
@own_runs_dir
@json_option
@run_argument
@click.pass_context
def show(context: click.Context, word: str, runs_dir: Path | None, as_json: bool) -> int:
    """Show what RUN was, how it ended, and what happened in it."""
    from orchestrator.commands.runs import show as command
    from orchestrator.ui.display import Display

    return command(base(context, runs_dir), word, Display(as_json=as_json))


@runs.command()
@own_runs_dir
@click.option("--full", is_flag=True, help="Show all lines of code that differ.")
@json_option
@click.argument("first", metavar="RUN", shell_complete=completion.runs)
@click.argument("second", metavar="RUN", shell_complete=completion.runs)
@click.pass_context
def diff(context: click.Context, first: str, second: str, runs_dir: Path | None, full: bool, as_json: bool) -> int:
    """Show how two runs differ: arguments, options, code, environment and last metrics."""
    from orchestrator.commands.runs import diff as command
    from orchestrator.ui.display import Display

    return command(base(context, runs_dir), (first, second), full, Display(as_json=as_json))


@runs.command()
@own_runs_dir
@click.option("--force", is_flag=True, help="Also remove runs that nobody followed to their end.")
@click.argument("words", nargs=-1, required=True, metavar="RUN...", shell_complete=completion.runs)
@click.pass_context
def rm(context: click.Context, words: tuple[str, ...], runs_dir: Path | None, force: bool) -> int:
    """Remove runs from this machine: records, logs and outputs.

    What they wrote on the hosts stays there.
    """
    from orchestrator.commands.runs import rm as command
    from orchestrator.ui.display import Display

    return command(base(context, runs_dir), words, force, Display())


@runs.command()
@own_runs_dir
@click.option("--keep", type=click.IntRange(min=0), metavar="N", help="Keep the newest N runs.")
@click.option("--older-than", metavar="AGE", help="Remove only runs that began so long ago: 12h, 30d.")
@click.option("--tagged", is_flag=True, help="Also remove runs that have tags.")
@click.option("--dry-run", is_flag=True, help="List what would be removed, and remove nothing.")
@click.pass_context
def prune(
    context: click.Context,
    keep: int | None,
    older_than: str | None,
    tagged: bool,
    dry_run: bool,
    runs_dir: Path | None,
) -> int:
    """Remove old runs from this machine, except those with tags.

    Runs that nobody followed to their end stay, since they may still go on.
    """
    from orchestrator.commands.runs import prune as command
    from orchestrator.ui.display import Display

    seconds = None if older_than is None else age(older_than, "--older-than")
    return command(base(context, runs_dir), keep, seconds, tagged, dry_run, Display())


@runs.command()
@own_runs_dir
@click.option("--remove", is_flag=True, help="Take the tags from the run instead.")
@run_argument
@click.argument("tags", nargs=-1, metavar="[TAG...]")
@click.pass_context
def tag(context: click.Context, word: str, tags: tuple[str, ...], runs_dir: Path | None, remove: bool) -> int:
    """Add tags to RUN, which orch runs --tag lists and prune spares; without TAG, print them."""
    from orchestrator.commands.runs import tag as command
    from orchestrator.ui.display import Display

    for each in tags:
        if not each.strip() or any(letter.isspace() or letter == "," for letter in each):
            raise UsageError(f"tag {each!r}: expected a word without blanks and commas")
    return command(base(context, runs_dir), word, tags, remove, Display())


@runs.command()
@own_runs_dir
@run_argument
@click.argument("text", nargs=-1, metavar="[TEXT...]")
@click.pass_context
def note(context: click.Context, word: str, text: tuple[str, ...], runs_dir: Path | None) -> int:
    """Add a note to RUN; without TEXT, print its notes."""
    from orchestrator.commands.runs import note as command
    from orchestrator.ui.display import Display

    return command(base(context, runs_dir), word, " ".join(text) or None, Display())
