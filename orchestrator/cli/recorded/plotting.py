"""``orch runs metrics`` and ``orch runs plot``: what runs measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.help import completion
from orchestrator.cli.recorded.history import base, json_option, own_runs_dir, run_argument

rank_option = click.option(
    "--rank",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Whose output is read where metrics were printed.",
)
pattern_option = click.option(
    "--pattern",
    metavar="REGEX",
    help="How printed lines tell metrics: named groups, such as 'step (?P<step>\\d+) loss (?P<loss>\\S+)'. "
    "Without it: loss=0.3 and loss: 0.3.",
)


@click.command()
@own_runs_dir
@rank_option
@pattern_option
@json_option
@run_argument
@click.pass_context
def metrics(
    context: click.Context, word: str, runs_dir: Path | None, rank: int, pattern: str | None, as_json: bool
) -> int:
    """List the metrics of RUN: from metrics.jsonl, TensorBoard's event files, and what the script printed.

    With --json: all their values.
    """
    from orchestrator.commands.metrics import listed
    from orchestrator.ui.display import Display

    return listed(base(context, runs_dir), word, rank, pattern, Display(as_json=as_json))


def _picture(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and path.suffix not in (".png", ".svg", ".pdf"):
        raise click.BadParameter(f"{str(path)!r} does not end in .png, .svg or .pdf", context, parameter)
    return path


def _drawn(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how curves are drawn."""
    for option in reversed(
        (
            click.option("-m", "--metric", metavar="NAME", help="Which metric; loss also finds train/loss."),
            click.option("--source", metavar="TEXT", help="Only metrics from a source whose name has TEXT in it."),
            click.option("--x", "axis", type=click.Choice(["step", "time"]), default="step", show_default=True),
            click.option(
                "--smooth", type=click.IntRange(min=1), default=1, metavar="N", help="Average N values in a row."
            ),
            click.option("--log", is_flag=True, help="A logarithmic scale of values."),
            click.option(
                "-o",
                "--output",
                type=click.Path(path_type=Path, dir_okay=False),
                callback=_picture,
                metavar="FILE",
                help="Write a picture (.png, .svg, .pdf; needs matplotlib) instead of drawing in the terminal.",
            ),
        )
    ):
        command = option(command)
    return command


@click.command()
@own_runs_dir
@_drawn
@rank_option
@pattern_option
@click.argument("words", nargs=-1, required=True, metavar="RUN...", shell_complete=completion.runs)
@click.pass_context
def plot(
    context: click.Context,
    words: tuple[str, ...],
    runs_dir: Path | None,
    metric: str | None,
    source: str | None,
    axis: str,
    smooth: int,
    log: bool,
    output: Path | None,
    rank: int,
    pattern: str | None,
) -> int:
    """Draw a metric of one or more runs, in the terminal or into a picture.

    A run that goes on is drawn as far as it is known here.
    """
    from orchestrator.commands.metrics import Choice, plotted
    from orchestrator.ui.display import Display

    choice = Choice(metric, source, rank, pattern, over_time=axis == "time", smooth=smooth)
    return plotted(base(context, runs_dir), words, choice, log, output, Display())
