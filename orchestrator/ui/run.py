"""Shows a run: output with its node and rank, events, the live view of the nodes, and the summary."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.core.run.output import NodeSample, Output
from orchestrator.core.run.result import Failure, NodeResult, RunResult
from orchestrator.core.run.telling import told as told_of
from orchestrator.core.text.counted import counted
from orchestrator.core.text.escapes import harmless
from orchestrator.core.text.lines import LineAssembler
from orchestrator.protocol.events import Event, to_line
from orchestrator.ui.console import STATE_STYLES
from orchestrator.ui.display import Display
from orchestrator.ui.view import Block, View

if TYPE_CHECKING:
    # Its table of signatures takes a while to compile, and only a failed run needs it.
    from orchestrator.core.diagnosis.diagnosis import Diagnosis

COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta")
ANSI = dict(zip(COLOURS, (36, 32, 33, 35, 34, 96, 92, 95), strict=True))
# Shortest interval between two shown states of a rank's progress bar, in seconds: on a terminal, and elsewhere.
PROGRESS_EVERY = (1.0, 10.0)


class RunDisplay:
    """The display of one run."""

    def __init__(self, display: Display) -> None:
        self.display = display
        self._assemblers: dict[tuple[str, str, str, int], LineAssembler] = {}
        self._progress_shown: dict[tuple[str, str, str], float] = {}
        self._colours: dict[str, str] = {}
        self._view: View | None = None
        self._live: Live | None = None

    @contextmanager
    def attempt(self, run_id: str, workload: str, attempt: int, nodes: Sequence[str]) -> Iterator[None]:
        """Show an attempt on ``nodes`` while the body runs, in a live display with a view below the output."""
        if attempt > 1:
            self.display.note(f"attempt {attempt} on {', '.join(nodes)}")
        if self.display.live:
            self._view = View(run_id, workload, attempt, nodes, self.display.err)
            self._live = Live(
                get_renderable=self._view.__rich__,
                console=self.display.err,
                refresh_per_second=2,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        try:
            yield
        finally:
            self.end_of_output()

    def recall(self, events: Sequence[Event]) -> None:
        """Tell the live view of events from before this display began."""
        if self._view is not None:
            for event in events:
                self._view.event(event)

    def output(self, output: Output) -> None:
        """Show the whole lines of output with node and rank before them; torchrun's own only if verbose."""
        if self._view is not None:
            self._view.output(output)
        if output.skipped:
            self.display.note(
                f"{output.node}: {counted(output.skipped, 'byte')} of {output.name} before this were not kept"
            )
            return
        if output.stream == "torchrun" and not (self.display.verbose or self.display.as_json):
            # These are harmless warnings, and pages of traceback at every stop. torchrun's log keeps them.
            return
        key = (output.node, _label(output), output.stream)
        # A restarted rank does not continue the last line of the one before it.
        assembler = self._assemblers.get(whole := (*key, output.restart))
        if assembler is None:
            assembler = self._assemblers[whole] = LineAssembler(
                b"" if self.display.as_json else self._prefix(output)
            )
        lines = assembler.feed(output.data)
        if self.display.as_json:
            self.display.write_bytes(_json_lines(key, lines))
        elif lines:
            # torchrun's output is progress, not the workload's output, so it goes to stderr.
            self._write_lines(lines, 2 if output.stream == "torchrun" else 1)
        elif progress := assembler.progress():
            now = time.monotonic()
            every = PROGRESS_EVERY[0 if self.display.terminal else 1]
            if now - self._progress_shown.get(key, now - every) >= every:
                self._progress_shown[key] = now
                self._write_lines(progress + b"\n", 1)

    def sample(self, sample: NodeSample) -> None:
        """Show a node's load in the live view."""
        if self._view is not None:
            self._view.sample(sample)

    def event(self, event: Event) -> None:
        """Show an event."""
        if self.display.as_json:
            self.display.write_bytes(to_line(event).encode() + b"\n")
            return
        if self._view is not None:
            self._view.event(event)
        told = told_of(event)
        if told is not None:
            self.display.note(told)
        elif self.display.verbose:
            about = event.to_wire()
            fields = " ".join(f"{key}={about[key]}" for key in about if key not in ("event", "time", "node"))
            self.display.note(f"{event.node or '-'}: {event.KIND} {fields}")

    def detached(self, run_id: str) -> None:
        """Show how to return to a run that goes on, and write its id to stdout as the result."""
        if self.display.as_json:
            self.display.write_bytes(json.dumps({"event": "detached", "run_id": run_id}).encode() + b"\n")
            return
        self.display.note(f"the run goes on: orch logs -f {run_id}, orch attach {run_id}, orch stop {run_id}")
        self.display.write(f"{run_id}\n")

    def diagnosis(self, found: Diagnosis) -> None:
        """Show a diagnosis: the failure, its cause, up to three lines of evidence, and the remedy."""
        self.display.err.print(Text.assemble(("failed: ", "bold red"), found.what))
        self.display.err.print(Text.assemble(("  cause: ", "dim"), found.cause))
        for line in found.evidence[:3]:
            if line not in found.cause:
                self.display.err.print(Text.assemble(("  seen: ", "dim"), line))
        self.display.err.print(Text.assemble(("  remedy: ", "dim"), found.remedy))

    def summary(self, result: RunResult, folder: Path, found: Diagnosis | None, last_lines: Sequence[str]) -> None:
        """Show each node's result, the blamed rank's last lines with the diagnosis, and the run's folder."""
        self.display.table(nodes_table(result), self.display.err)
        for node in result.nodes.values():
            for left in node.left:
                self.display.note(f"{node.node}: not fetched: {left}")
            for alive in node.alive:
                self.display.note(f"{node.node}: could not be ended: {alive}")
        if found is not None:
            for line in last_lines:
                self.display.err.print(Text(f"  {line}", style="dim"))
            self.diagnosis(found)
        self.display.err.print(Text.assemble(("outputs, logs and events: ", "dim"), str(folder)))

    def end_of_output(self) -> None:
        """Show last lines that lack a newline, and end the live view."""
        for (node, label, stream, _), assembler in self._assemblers.items():
            line = assembler.flush()
            if self.display.as_json:
                self.display.write_bytes(_json_lines((node, label, stream), line))
            elif line:
                self._write_lines(line, 2 if label == "torchrun" else 1)
        self._assemblers.clear()
        if self._live is not None:
            self._live.stop()
            self._live = self._view = None

    def _prefix(self, output: Output) -> bytes:
        text = f"[{output.node}:{_label(output)}{' err' if output.stream == 'stderr' else ''}]"
        if not self.display.coloured:
            return text.encode() + b" "
        colour = self._colours.setdefault(output.node, COLOURS[len(self._colours) % len(COLOURS)])
        weight = "2;" if output.stream != "stdout" else ""
        return f"\x1b[{weight}{ANSI[colour]}m{text}\x1b[0m ".encode()

    def _write_lines(self, lines: bytes, descriptor: int) -> None:
        """Write lines above the live view if the descriptor is its terminal, else straight to the descriptor."""
        terminal = os.isatty(descriptor)
        if terminal:
            lines = harmless(lines)
        if self._live is not None and terminal:
            self.display.err.print(Block(lines.decode("utf-8", "replace")), end="", soft_wrap=True)
        else:
            self.display.write_bytes(lines, descriptor)


def _json_lines(key: tuple[str, str, str], lines: bytes) -> bytes:
    """Return whole lines as JSON events; bytes that are not UTF-8 become escapes."""
    node, label, stream = key
    about = {"event": "log", "node": node, "rank": int(label) if label.isdigit() else label, "stream": stream}
    texts = lines.decode("utf-8", "backslashreplace").split("\n")[:-1]
    return "".join(json.dumps({**about, "line": text}) + "\n" for text in texts).encode()


def _label(output: Output) -> str:
    if output.stream == "torchrun":
        return "torchrun"
    return str(output.rank) if output.rank is not None else f"local{output.local_rank}"


def nodes_table(result: RunResult) -> Table:
    """Return a table of each node's result.

    A node whose rank failed is shown as failed, with that rank's exit, although torchrun was stopped afterwards.
    """
    own = {failure.node: failure for failure in reversed(result.failures) if failure.rank is not None}
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("node", "result", "exit", "duration", "outputs"):
        table.add_column(heading)
    for node in result.nodes.values():
        ended: NodeResult | Failure = node
        state = node.state
        if state == "stopped" and node.node in own:
            ended, state = own[node.node], "failed"
        code = "-" if ended.exit_code is None else str(ended.exit_code)
        code = f"signal {ended.signal}" if ended.signal else code
        took = f"{node.duration:.1f} s" if node.duration is not None else "-"
        table.add_row(
            node.node, Text(state, style=STATE_STYLES.get(state, "")), code, took, counted(node.collected, "file")
        )
    return table
