"""Pictures of series, drawn by matplotlib, which is not needed otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from orchestrator.core.metrics.series import Series
from orchestrator.errors import UsageError

# Up to so many values, each is marked.
MARKED = 30


def write_picture(path: Path, lines: Sequence[tuple[str, Series]], axis: str, *, log: bool) -> None:
    """Write a picture of series, each with its title, in the format that the path's end names.

    Raises UsageError if matplotlib is missing, or the file cannot be written.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(f"{path}: pictures need matplotlib", remedy="pip install matplotlib") from None
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for title, line in lines:
        axes.plot(line.steps, line.values, label=title, marker="o" if len(line) <= MARKED else "", markersize=3)
    axes.set_xlabel(axis)
    axes.set_ylabel(lines[0][1].name)
    if log:
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    beside = path.with_name(f".{path.name}.part")
    try:
        # Text stays text in SVG, so that it can be searched.
        with matplotlib.rc_context({"svg.fonttype": "none"}):
            figure.savefig(beside, format=path.suffix[1:], dpi=150)
        beside.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    finally:
        beside.unlink(missing_ok=True)
