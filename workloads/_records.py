"""What a training run leaves on disk: snapshots to go on from, metrics as JSON lines, curves.

Scripts beside it import it by its name; take it along when you copy one.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from _ranks import Ranks, refuse

# How long a rank whose peer has left waits for a stop signal of its own, in seconds: nodes get it one by one.
SIGNAL_DELAY = 1.0


def add_records(parser: argparse.ArgumentParser) -> None:
    """The options that say where things are kept."""
    parser.add_argument("--snapshot", type=Path, default=Path("snapshot.pt"))
    parser.add_argument("--no-resume", action="store_true", help="begin anew even if there is a snapshot")
    parser.add_argument("--output-dir", type=Path, default=Path(), help="for metrics.jsonl and loss.png")


class Snapshots:
    """The state of a run in a file on every node, whole or not there, also when a signal ends the run.

    A state is a dict of tensors and plain values. Its ``step`` counts what was done, so that the newest is found;
    its ``workload`` says what it belongs to.
    """

    def __init__(self, path: Path, ranks: Ranks, *, resume: bool = True) -> None:
        self.path, self.ranks, self.resume = path, ranks, resume
        self.signal: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal is not None:
            # A second Ctrl-C does not wait for the step to end.
            raise KeyboardInterrupt
        self.signal = number

    def load(self, workload: str) -> dict[str, Any] | None:
        """The newest snapshot that any rank has, on every rank: after a restart ranks may be on other nodes.

        None if there is none. Ends the process with a line if one cannot be read, or is another workload's.
        """
        mine = self._read() if self.resume else None
        if mine is not None and mine["workload"] != workload:
            refuse(f"{self.path} is of {mine['workload']}: pass --no-resume or another --snapshot")
        steps = self.ranks.gathered(-1 if mine is None else mine["step"])
        newest = max(steps)
        if newest < 0:
            return None
        if self.ranks.world_size == 1:
            return mine
        found = [mine]
        dist.broadcast_object_list(found, src=steps.index(newest), device=self.ranks.device)
        return found[0]

    def _read(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            found["step"], found["workload"]
        except FileNotFoundError:
            return None
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, KeyError, TypeError):
            refuse(f"{self.path} is no snapshot of this program, or damaged: delete it or pass --no-resume")
        return found

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep it, on every node by one rank. All ranks have the same, so no rank number matters."""
        if self.ranks.local_rank == 0:
            write_atomically(self.path, lambda partial: torch.save(state, partial))

    def poll(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Between two steps: if a signal asked to stop, save and end; raises SystemExit."""
        if self.signal is not None:
            self.save(state())
            raise SystemExit(128 + self.signal)

    @contextmanager
    def guarding(self, state: Callable[[], Mapping[str, Any]]) -> Iterator[None]:
        """Save also if another rank that was asked to stop left this one in the middle of a collective.

        What such a step would have changed has not been changed yet: ``state`` is that of the step before.
        """
        try:
            yield
        except RuntimeError:
            deadline = time.monotonic() + SIGNAL_DELAY
            while self.signal is None and time.monotonic() < deadline:
                time.sleep(0.02)
            self.poll(state)
            raise


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """A file that is whole or not there, whenever the power goes; others may write the same from another node."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.partial")
    write(partial)
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_metrics(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """``metrics.jsonl``: a line for each row so far, as a snapshot keeps them. For rank 0."""
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomically(folder / "metrics.jsonl", lambda partial: partial.write_text(text))


def plot_curves(
    path: Path, rows: Sequence[Mapping[str, Any]], x: str, panels: Mapping[str, Sequence[str]]
) -> None:
    """A picture with a panel for each title, and in it a curve over ``x`` for each named value."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(
        1, len(panels), figsize=(4.5 * len(panels), 3.5), layout="constrained", squeeze=False
    )
    for axes, (title, names) in zip(grid[0], panels.items()):
        for name in names:
            points = [(row[x], row[name]) for row in rows if name in row]
            axes.plot([point[0] for point in points], [point[1] for point in points], label=name, marker=".")
        axes.set(xlabel=x, title=title)
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
