"""Progress of work on nodes: bars or spinners in a live display, and occasional lines of text elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

# With more nodes than this, no node has a bar of its own.
MOST_BARS = 16
# Interval of progress lines where the display is not live, in seconds.
LINE_EVERY = 10.0


class Transfers:
    """A context that shows how much of ``totals`` (bytes, by node) has arrived.

    Each node may be reported by a thread of its own.
    """

    def __init__(self, title: str, totals: Mapping[str, int], console: Console, live: bool) -> None:
        self.title = title
        self.totals = dict(totals)
        self._console = console
        self._live = live
        self._done = dict.fromkeys(totals, 0)
        self._lock = threading.Lock()
        self._began = self._told = time.monotonic()
        self._bars: dict[str, TaskID] = {}
        self._progress: Progress | None = None

    def __enter__(self) -> Transfers:
        if self._live:
            columns = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                *columns,
                console=self._console,
                transient=True,
            )
            self._progress.start()
            names = [self.title, *(self.totals if 1 < len(self.totals) <= MOST_BARS else ())]
            for name in names:
                total = sum(self.totals.values()) if name == self.title else self.totals[name]
                self._bars[name] = self._progress.add_task(name, total=total)
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def advance(self, node: str, size: int) -> None:
        """Count ``size`` more bytes as arrived at ``node``."""
        self.at(node, self._done[node] + size)

    def at(self, node: str, size: int) -> None:
        """Set the bytes that have arrived at ``node`` to ``size``."""
        with self._lock:
            self._done[node] = size
            done, total = sum(self._done.values()), sum(self.totals.values())
            now = time.monotonic()
            if self._progress is not None:
                self._progress.update(self._bars[self.title], completed=done)
                if node in self._bars:
                    self._progress.update(self._bars[node], completed=size)
            elif now - self._told >= LINE_EVERY:
                self._told = now
                rate = done / (now - self._began)
                left = (total - done) / rate if rate else 0.0
                so_far = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB, {rate / 1e6:.1f} MB/s, {left:.0f} s left"
                self._console.print(f"{self.title}: {so_far}")


class BuildProgress:
    """A context that shows the last line printed by a program on each node.

    Each node may be reported by a thread of its own.
    """

    def __init__(self, nodes: Collection[str], console: Console, live: bool) -> None:
        self._nodes = nodes
        self._console = console
        self._live = live
        self._began = time.monotonic()
        self._bars: dict[str, TaskID] = {}
        self._progress: Progress | None = None

    def __enter__(self) -> BuildProgress:
        if self._live and 0 < len(self._nodes) <= MOST_BARS:
            words = TextColumn("{task.description}", markup=False)
            self._progress = Progress(SpinnerColumn(), words, console=self._console, transient=True)
            self._progress.start()
            self._bars = {name: self._progress.add_task(name, total=None) for name in self._nodes}
        return self

    def __exit__(self, *error: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def line(self, node: str, text: str) -> None:
        """Show a line that the program on ``node`` printed."""
        if self._progress is not None:
            room = max(20, self._console.width - len(node) - 8)
            self._progress.update(self._bars[node], description=f"{node}: {text.strip()[:room]}")

    def done(self, node: str, what: str = "built") -> None:
        """Print that the program on ``node`` is done, and ``what`` it has done."""
        self._console.print(f"{node}: {what} in {time.monotonic() - self._began:.0f} s")
