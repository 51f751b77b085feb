"""What a training run leaves: snapshots to resume from, metrics as JSON lines, plots of the metrics, a summary.

The scripts in this folder import this file as ``_records``; copy it together with them.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from _ranks import Ranks, refuse

# Most ranks whose peak memory a summary lists one by one.
LISTED = 8
# How long a rank whose peer has left waits for a stop signal of its own, in seconds: the signal reaches one node
# after the other.
SIGNAL_DELAY = 1.0


def add_records(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where files are kept."""
    parser.add_argument("--snapshot", type=Path, default=Path("snapshot.pt"))
    parser.add_argument("--no-resume", action="store_true", help="ignore an existing snapshot")
    parser.add_argument("--output-dir", type=Path, default=Path(), help="folder for metrics.jsonl and loss.png")


class Snapshots:
    """Keeps the state of a run in a file on every node, which is complete or absent even if the run is killed.

    A state is a dict of tensors and plain values. Its ``step`` counts the steps done, by which the newest snapshot
    is found; its ``workload`` tells which script wrote it.

    SIGTERM and SIGINT (Ctrl-C) no longer end the process at once: ``poll`` saves and ends it between two steps.
    """

    def __init__(self, path: Path, ranks: Ranks, *, resume: bool = True) -> None:
        self.path, self.ranks, self.resume = path, ranks, resume
        self.signal: int | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal is not None:
            # The user has pressed Ctrl-C twice and does not want to wait for the step to end.
            raise KeyboardInterrupt
        # Saving here would save half a step: the signal may arrive at any line of the script.
        self.signal = number

    def load(self, workload: str) -> dict[str, Any] | None:
        """Return the newest snapshot of any rank, on every rank; None if no rank has one.

        After a restart the ranks may be on other nodes than before, and each node has its own files. Ends the
        process with a line if a snapshot cannot be read or another workload wrote it. A collective: every rank
        must call it.
        """
        mine = self._read() if self.resume else None
        if mine is not None and mine["workload"] != workload:
            refuse(f"{self.path} belongs to {mine['workload']}: pass --no-resume or another --snapshot")
        # All ranks learn the same numbers, so all of them choose the same source below.
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
            # weights_only: reading a file must not run code that is hidden in it. It goes to the CPU first,
            # because the GPU that it was saved from may not exist on this node.
            found: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            found["step"], found["workload"]
        except FileNotFoundError:
            return None
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, LookupError, TypeError):
            refuse(f"{self.path} is damaged or not a snapshot of this script: delete it or pass --no-resume")
        return found

    def save(self, state: Mapping[str, Any]) -> None:
        """Save a state, on the first rank of each node.

        All ranks have the same state. One file for each node is enough to resume if another node is lost, and two
        ranks must not write to one file.
        """
        if self.ranks.local_rank == 0:
            write_atomically(self.path, lambda partial: torch.save(state, partial))

    def poll(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Save and end if a signal asked this process to stop; call it between two steps.

        Raises SystemExit with 128 plus the number of the signal, as a shell reports it.
        """
        if self.signal is not None:
            self.save(state())
            raise SystemExit(128 + self.signal)

    @contextmanager
    def guarding(self, state: Callable[[], Mapping[str, Any]]) -> Iterator[None]:
        """Save, too, if another rank was asked to stop and left this one in the middle of a collective.

        The collective then fails with a RuntimeError. The step that failed has not changed the parameters yet, so
        ``state`` is that of the step before.
        """
        try:
            yield
        except RuntimeError:
            # A rank that failed for another reason gets no signal, and its error goes on.
            deadline = time.monotonic() + SIGNAL_DELAY
            while self.signal is None and time.monotonic() < deadline:
                time.sleep(0.02)
            self.poll(state)
            raise


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` create a file that is complete or absent, even if the power fails.

    The data go to another name in the same folder, which is then renamed: a reader finds the old file or the new
    one. That name contains the host name, because nodes that share a disk may write the same file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.partial")
    write(partial)
    with partial.open("rb+") as file:
        # The data must be on disk before the new name is, or a power failure could leave an empty file.
        os.fsync(file.fileno())
    partial.replace(path)
    # The new name is part of the folder, which has to reach the disk as well.
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_metrics(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``metrics.jsonl``: one line for each row so far. Call it on rank 0.

    The rows are part of the snapshot, so the file is complete even if rank 0 moves to another node.
    """
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_atomically(folder / "metrics.jsonl", lambda partial: partial.write_text(text))


class Tally:
    """The work that this start of a workload has done, for the line that every workload ends with.

    ``unit``: what the work is counted in.
    """

    def __init__(self, unit: str = "samples") -> None:
        self.unit = unit
        self.began = time.monotonic()
        self.amount = self.seconds = 0.0

    def add(self, amount: float, seconds: float) -> float:
        """Count work that all ranks together did in ``seconds``; return how much that is per second."""
        self.amount += amount
        self.seconds += seconds
        return amount / seconds if seconds else 0.0

    def summarise(self, ranks: Ranks) -> None:
        """Print the time in all, the rate of the work, the number of ranks and the most memory each has used.

        A collective if the ranks have a group: then every rank must call it.
        """
        peak = peak_memory(ranks.device)
        # Ranks that work by themselves, as in hello, have no group; rank 0 then knows only its own memory.
        grouped = ranks.world_size > 1 and dist.is_initialized()
        peaks = [f"{each / 1e6:.0f}" for each in (ranks.gathered(peak) if grouped else [peak])]
        listed = ", ".join(peaks) if len(peaks) <= LISTED else f"{min(peaks, key=int)} to {max(peaks, key=int)}"
        rate = self.amount / self.seconds if self.seconds else 0.0
        memory = "GPU memory" if ranks.device.type == "cuda" else "memory"
        ranks.say(
            f"Summary: {time.monotonic() - self.began:.1f} s in all, {rate:.{0 if rate >= 100 else 1}f} "
            f"{self.unit}/s, world size {ranks.world_size}, peak {memory} per rank {listed} MB"
        )


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that this rank has had in use: on its GPU, or in all if it uses the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # macOS counts bytes, Linux KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def plot_curves(
    path: Path, rows: Sequence[Mapping[str, Any]], x: str, panels: Mapping[str, Sequence[str]]
) -> None:
    """Plot a panel for each title, with a curve over ``x`` for each of its values."""
    import matplotlib

    # Nodes have no screen.
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
