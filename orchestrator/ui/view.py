"""The live view of a run, below its output on a terminal."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from orchestrator.core.run.output import NodeSample, Output
from orchestrator.core.run.result import fold
from orchestrator.core.text.counted import counted
from orchestrator.protocol.events import Event, Planned, StopRequested, TorchrunStarted
from orchestrator.ui.console import STATE_STYLES, AsIs

# Terminal width in columns from which each node's last line is shown.
WIDE = 120
# Window over which the throughput of the logs is measured, in seconds.
RATE_WINDOW = 5.0


class Block:
    """Text printed unchanged: rich would interpret a program's brackets as markup, and wrap its lines."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the whole text as one segment."""
        yield Segment(AsIs(self.text))


@dataclass
class NodeView:
    """The view's data about one node. ``received``: (time, bytes) of its recent pieces of output."""

    sample: NodeSample | None = None
    last_line: str = ""
    received: deque[tuple[float, int]] = field(default_factory=deque)

    def rate(self, now: float) -> float:
        """Return the bytes of output per second over the last ``RATE_WINDOW`` seconds."""
        while self.received and self.received[0][0] < now - RATE_WINDOW:
            self.received.popleft()
        return sum(size for _, size in self.received) / RATE_WINDOW


class View:
    """The data of the live view; rich calls ``__rich__`` to redraw it."""

    def __init__(self, run_id: str, workload: str, attempt: int, nodes: Sequence[str], console: Console) -> None:
        self.run_id = run_id
        self.workload = workload
        self.attempt = attempt
        self.console = console
        self.began = time.time()
        # Time (monotonic) at which the remaining processes are killed, once a stop was requested.
        self.killed_by: float | None = None
        self.nodes = {name: NodeView() for name in nodes}
        self.result = fold([Planned(time=time.time(), nodes=tuple(nodes), attempt=attempt)])

    def event(self, event: Event) -> None:
        """Apply an event."""
        if isinstance(event, StopRequested):
            by = time.monotonic() + event.grace
            self.killed_by = by if self.killed_by is None else min(by, self.killed_by)
        if isinstance(event, TorchrunStarted):
            self.began = min(self.began, event.time)
        self.result = self.result.after(event)

    def sample(self, sample: NodeSample) -> None:
        """Take a node's load."""
        self.nodes[sample.node].sample = sample

    def output(self, output: Output) -> None:
        """Take a piece of a node's output."""
        node = self.nodes[output.node]
        node.received.append((time.monotonic(), len(output.data)))
        if output.stream == "stdout" and b"\n" in output.data:
            line = output.data[-2000:].rstrip(b"\n").rpartition(b"\n")[2].rpartition(b"\r")[2]
            node.last_line = line.decode("utf-8", "replace")

    def __rich__(self) -> RenderableType:
        """Return the heading, a row for each node that fits, and the key bindings."""
        width, height = self.console.size
        now = time.monotonic()
        names = list(self.nodes)
        room = max(3, height // 2 - 4)
        shown = names if len(names) <= room else sorted(names, key=self._interest)[: room - 1]
        table = Table(box=None, pad_edge=False, header_style="dim", expand=width >= WIDE)
        for heading in ("node", "ranks", "state", "cpu", "memory", "gpu", "output"):
            table.add_column(heading, no_wrap=True)
        if width >= WIDE:
            table.add_column("last line", no_wrap=True, overflow="ellipsis", ratio=1)
        for name in sorted(shown, key=names.index):
            table.add_row(*self._row(name, now, width >= WIDE))
        parts: list[RenderableType] = [self._heading(now), table]
        if len(shown) < len(names):
            parts.append(Text(f"and {counted(len(names) - len(shown), 'more node')}", style="dim"))
        parts.append(Text("Ctrl-C stops the run, Ctrl-\\ leaves it running", style="dim"))
        return Group(*parts)

    def _interest(self, name: str) -> tuple[int, float]:
        """Return a sort key: nodes in trouble first, then the busiest."""
        sample = self.nodes[name].sample
        return (self.result.nodes[name].state in ("running", "ok"), -(sample.cpu if sample else 0.0))

    def _heading(self, now: float) -> Text:
        seconds = int(time.time() - self.began)
        states: dict[str, int] = {}
        for node in self.result.nodes.values():
            states[node.state] = states.get(node.state, 0) + 1
        text = Text.assemble((self.run_id, "bold"), f"  {self.workload}", no_wrap=True, overflow="ellipsis")
        if self.attempt > 1:
            text.append(f"  attempt {self.attempt}")
        text.append(f"  {seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}  ")
        if self.killed_by is not None:
            text.append(f"stopping, {max(0, self.killed_by - now):.0f} s left  ", "yellow")
        counts = [(f"{count} {state}", STATE_STYLES.get(state, "red")) for state, count in states.items()]
        for position, (count_text, style) in enumerate(counts):
            text.append(", " if position else "").append(count_text, style=style)
        text.append(f"  output {_rate(sum(node.rate(now) for node in self.nodes.values()))}")
        return text

    def _row(self, name: str, now: float, wide: bool) -> list[RenderableType]:
        node, result = self.nodes[name], self.result.nodes[name]
        sample = node.sample
        ranks = sorted(result.ranks)
        shown = "-" if not ranks else str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}"
        cells: list[RenderableType] = [
            Text(name, overflow="ellipsis"),
            shown,
            Text(result.state, style=STATE_STYLES.get(result.state, "red")),
            f"{sample.cpu:.0%}" if sample else "-",
            f"{_gigabytes(sample.memory_used)}/{_gigabytes(sample.memory_total)} GB" if sample else "-",
            _gpus(sample) if sample else "-",
            _rate(node.rate(now)),
        ]
        return [*cells, Text(node.last_line, style="dim", overflow="ellipsis", no_wrap=True)] if wide else cells


def _gpus(sample: NodeSample) -> str:
    if not sample.gpus:
        return "-"
    busy = sum(gpu[0] for gpu in sample.gpus) / len(sample.gpus)
    used, total = (sum(gpu[position] for gpu in sample.gpus) for position in (1, 2))
    return f"{len(sample.gpus)}x {busy:.0%} {_gigabytes(used)}/{_gigabytes(total)} GB"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f}" if size < 1e10 else f"{size / 1e9:.0f}"


def _rate(rate: float) -> str:
    if rate >= 1e5:
        return f"{rate / 1e6:.1f} MB/s"
    return f"{rate / 1e3:.1f} kB/s" if rate >= 1e3 else f"{rate:.0f} B/s" if rate else "-"
