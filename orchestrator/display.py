"""The only printer. Workload output and results go to stdout, orch's own progress to stderr.

With ``--json`` stdout carries one event a line and nothing else is printed but errors.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.core.checks import Finding
from orchestrator.core.events import Event, RunResult
from orchestrator.core.lines import LineAssembler
from orchestrator.core.plan import LaunchPlan
from orchestrator.core.torchrun import as_json, as_ps1, as_sh, commands, redacted
from orchestrator.errors import OrchError
from orchestrator.remote.gang import Output

COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta")
ANSI = dict(zip(COLOURS, (36, 32, 33, 35, 34, 96, 92, 95), strict=True))
# How often a progress bar that redraws itself is shown, in seconds: on a terminal, and elsewhere.
PROGRESS_EVERY = (1.0, 10.0)


class Display:
    """What a command shows. One instance a command."""

    def __init__(self, *, as_json: bool = False, verbose: bool = False) -> None:
        self.as_json = as_json
        self.verbose = verbose
        self.err = Console(stderr=True, quiet=as_json, highlight=False, soft_wrap=True)
        self.out = Console(highlight=False, soft_wrap=True)
        self._terminal = sys.stdout.isatty()
        self._coloured = self._terminal and "NO_COLOR" not in os.environ
        self._assemblers: dict[tuple[str, str, str], LineAssembler] = {}
        self._progress_shown: dict[tuple[str, str, str], float] = {}
        self._colours: dict[str, str] = {}

    @contextmanager
    def stage(self, doing: str) -> Iterator[Stage]:
        """A step with its duration: a spinner on a terminal, one line when it is done."""
        stage = Stage()
        began = time.monotonic()
        if self.err.is_terminal:
            with self.err.status(doing):
                yield stage
        else:
            yield stage
        done = Text(f"{doing}: {stage.result}" if stage.result else doing)
        done.append(f"  {time.monotonic() - began:.1f} s", style="dim")
        self.err.print(done)

    def note(self, text: str) -> None:
        """A line of orch's own on stderr."""
        self.err.print(Text(text))

    def write(self, text: str) -> None:
        """A command's result on stdout, as it is."""
        self._write(text.encode("utf-8", "surrogateescape"))

    def error(self, error: OrchError) -> None:
        """An error; printed with ``--json`` too."""
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        for line in str(error).splitlines():
            console.print(Text.assemble(("error: ", "bold red"), line))

    def findings(self, findings: Sequence[Finding]) -> None:
        """What the preflight found."""
        for finding in findings:
            style = "bold red" if finding.severity == "fail" else "bold yellow"
            self.err.print(Text.assemble((f"{finding.severity}: ", style), str(finding)))

    def settings(self, plan: LaunchPlan, environments: Sequence[str]) -> None:
        """A run's settings before it starts, so that the reader learns the command behind it."""
        spec = plan.spec
        head = [
            ("run", plan.run_id),
            ("workload", " ".join([spec.workload.name, *spec.args])),
            ("backend", plan.backend),
            ("nnodes", str(len(plan.nodes))),
            ("world_size", str(plan.world_size)),
            ("master_addr", plan.master_addr),
            ("master_port", str(plan.master_port)),
            ("rendezvous", _rendezvous(plan)),
            ("environment", "; ".join(environments)),
        ]
        if spec.env:
            head.append(("variables", " ".join(f"{name}={value}" for name, value in redacted(spec.env).items())))
        grid = Table.grid(padding=(0, 2))
        for name, value in head:
            grid.add_row(Text(name, style="dim"), Text(value, overflow="fold"))
        self.err.print(grid)
        self.err.print(plan_table(plan))
        for note in plan.notes:
            self.note(f"note: {note}")
        self.err.print(Text("on each node (orch plan shows it whole): " + _short_command(plan), style="dim"))

    def plan(self, plan: LaunchPlan, form: str) -> None:
        """A plan on stdout as ``table``, ``sh``, ``ps1`` or ``json``."""
        if form == "table":
            self.out.print(plan_table(plan))
            for each in commands(plan):
                self.out.print(Text(f"\n{each.node}: cd {each.cwd}", style="bold"))
                for name, value in redacted(each.env).items():
                    self.out.print(Text(f"  {name}={value}", style="dim"))
                self.out.print(Text(f"  {shlex.join(each.argv)}"))
            for note in plan.notes:
                self.note(f"note: {note}")
        else:
            self.write({"sh": as_sh, "ps1": as_ps1, "json": as_json}[form](plan))

    def answer(self, hosts: Sequence[str], exit_code: int, out: bytes, err: bytes) -> None:
        """What a command printed on hosts that all said the same."""
        heading = f"{', '.join(hosts)}{f': exit code {exit_code}' if exit_code else ''}"
        self.err.print(Text(heading, style="bold red" if exit_code else "bold"))
        self._write(out)
        sys.stderr.buffer.write(err)
        sys.stderr.flush()

    def output(self, output: Output) -> None:
        """A piece of a rank's output: whole lines with the node and rank before them."""
        key = (output.node, _label(output), output.stream)
        assembler = self._assemblers.get(key)
        if assembler is None:
            assembler = self._assemblers[key] = LineAssembler(b"" if self.as_json else self._prefix(output))
        lines = assembler.feed(output.data)
        if self.as_json:
            self._write(_json_lines(key, lines))
        elif lines:
            # torchrun's own words are progress, not the workload's output.
            self._write(lines, 2 if output.stream == "torchrun" else 1)
        elif progress := assembler.progress():
            now = time.monotonic()
            every = PROGRESS_EVERY[0 if self._terminal else 1]
            if now - self._progress_shown.get(key, now - every) >= every:
                self._progress_shown[key] = now
                self._write(progress + b"\n")

    def end_of_output(self) -> None:
        """Show the last lines that lack a newline."""
        for key, assembler in self._assemblers.items():
            line = assembler.flush()
            if self.as_json:
                self._write(_json_lines(key, line))
            else:
                self._write(line, 2 if key[1] == "torchrun" else 1)

    def event(self, event: Event) -> None:
        """An event of a run."""
        if self.as_json:
            self._write(event.to_json().encode() + b"\n")
            return
        if event.kind == "stop_requested":
            self.note(f"stopping: {event.fields['reason']}")
        elif event.kind in ("node_lost", "orphaned"):
            self.note(f"{event.node}: lost ({event.fields.get('reason', 'its supervisor was killed')})")
        elif event.kind == "rank_failed":
            self.note(f"{event.node}: rank {event.fields['rank']} failed")
        elif self.verbose:
            fields = " ".join(f"{name}={value}" for name, value in event.fields.items())
            self.note(f"{event.node or '-'}: {event.kind} {fields}")

    def summary(self, result: RunResult, folder: Path, tail: Sequence[str]) -> None:
        """How each node ended, the first failure and its last lines, and where everything is."""
        table = Table(box=None, pad_edge=False, header_style="dim")
        for heading in ("node", "result", "exit", "duration", "outputs"):
            table.add_column(heading)
        for node in result.nodes.values():
            style = "green" if node.state == "ok" else "red" if node.state in ("failed", "lost") else "yellow"
            code = str(node.exit_code) if node.signal is None else f"signal {node.signal}"
            took = f"{node.duration:.1f} s" if node.duration is not None else "-"
            table.add_row(node.node, Text(node.state, style=style), code, took, f"{node.collected} files")
        self.err.print(table)
        for node in result.nodes.values():
            for left in node.left:
                self.note(f"{node.node}: left there: {left}")
        if result.failure is not None:
            for line in tail:
                self.err.print(Text(f"  {line}", style="dim"))
            self.err.print(Text.assemble(("failed: ", "bold red"), result.failure.describe()))
            if result.failure.message:
                self.note(f"  {result.failure.message}")
        self.err.print(Text.assemble(("outputs, logs and events: ", "dim"), str(folder)))

    def _prefix(self, output: Output) -> bytes:
        text = f"[{output.node}:{_label(output)}{' err' if output.stream == 'stderr' else ''}]"
        if not self._coloured:
            return text.encode() + b" "
        colour = self._colours.setdefault(output.node, COLOURS[len(self._colours) % len(COLOURS)])
        weight = "2;" if output.stream != "stdout" else ""
        return f"\x1b[{weight}{ANSI[colour]}m{text}\x1b[0m ".encode()

    def _write(self, data: bytes, descriptor: int = 1) -> None:
        """Straight to the descriptor: output comes in large blocks of bytes, not all of them text."""
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]


class Stage:
    """A running step; set ``result`` to what came of it."""

    result = ""


def plan_table(plan: LaunchPlan) -> Table:
    """The nodes of a plan, in node_rank order."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("node_rank", "node", "nproc_per_node", "ranks", "address", "interface"):
        table.add_column(heading)
    for node in plan.nodes:
        first = node.first_rank
        last = None if first is None else first + node.nproc_per_node - 1
        ranks = "by torchrun" if first is None else str(first) if first == last else f"{first}-{last}"
        values = [str(node.node_rank), node.node, str(node.nproc_per_node), ranks]
        table.add_row(*values, node.address or "-", node.interface or "chosen by torch")
    return table


def _rendezvous(plan: LaunchPlan) -> str:
    if plan.rdzv_backend == "static":
        return "static"
    return f"{plan.rdzv_backend}, endpoint {plan.rdzv_endpoint}, id {plan.rdzv_id}"


def _short_command(plan: LaunchPlan) -> str:
    shown = []
    for word in commands(plan)[0].argv:
        if word.startswith("--node_rank="):
            word = "--node_rank=<node_rank>"
        if not word.startswith(("--log_dir", "--redirects")):
            shown.append(word if word.startswith("--node_rank") else shlex.quote(word))
    return " ".join(shown)


def _json_lines(key: tuple[str, str, str], lines: bytes) -> bytes:
    """Whole lines as events; bytes that are not UTF-8 are written as escapes."""
    node, label, stream = key
    about = {"event": "log", "node": node, "rank": int(label) if label.isdigit() else label, "stream": stream}
    texts = lines.decode("utf-8", "backslashreplace").split("\n")[:-1]
    return "".join(json.dumps({**about, "line": text}) + "\n" for text in texts).encode()


def _label(output: Output) -> str:
    if output.stream == "torchrun":
        return "torchrun"
    return str(output.rank) if output.rank is not None else f"local{output.local_rank}"
