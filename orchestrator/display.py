"""The only printer. Workload output and results go to stdout, orch's own progress to stderr.

With ``--json`` stdout carries one event a line and nothing else is printed but errors.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.live import Live
from rich.text import Text

from orchestrator.console import Screen
from orchestrator.core.escapes import harmless, visible
from orchestrator.core.events import RunResult
from orchestrator.core.findings import Examined, Finding, merged
from orchestrator.core.hostrange import folded
from orchestrator.core.lines import LineAssembler
from orchestrator.core.plan import LaunchPlan
from orchestrator.core.runs import Run
from orchestrator.core.secret import masked, masked_words, redacted
from orchestrator.core.torchrun import as_json, as_ps1, as_sh, commands
from orchestrator.errors import OrchError
from orchestrator.progress import Saying, Transfers
from orchestrator.protocol import events
from orchestrator.protocol.events import Event, to_line
from orchestrator.remote.follower import Output, Sample
from orchestrator.tables import machine, nodes_table, plan_table, runs_table, settings_grid, short_command
from orchestrator.view import Block, View

if TYPE_CHECKING:
    # Its table of signatures takes a while to compile, and only a failed run needs it.
    from orchestrator.core.diagnosis import Diagnosis

COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "bright_cyan", "bright_green", "bright_magenta")
ANSI = dict(zip(COLOURS, (36, 32, 33, 35, 34, 96, 92, 95), strict=True))
# How often a progress bar that redraws itself is shown, in seconds: on a terminal, and elsewhere.
PROGRESS_EVERY = (1.0, 10.0)


class Display:
    """What a command shows. One instance a command."""

    def __init__(self, *, as_json: bool = False, verbose: bool = False) -> None:
        self.as_json = as_json
        self.verbose = verbose
        self.err = Screen(stderr=True, quiet=as_json)
        self.out = Screen()
        self._terminal = sys.stdout.isatty()
        self._coloured = self._terminal and "NO_COLOR" not in os.environ
        self._assemblers: dict[tuple[str, str, str, int], LineAssembler] = {}
        self._progress_shown: dict[tuple[str, str, str], float] = {}
        self._colours: dict[str, str] = {}
        self._view: View | None = None
        self._live: Live | None = None

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

    def transfer(self, title: str, totals: Mapping[str, int]) -> Transfers:
        """Bytes on their way to nodes, of ``totals`` by node: a context."""
        return Transfers(title, totals, self.err)

    def saying(self, nodes: Collection[str]) -> Saying:
        """What builds on nodes say: a context."""
        return Saying(nodes, self.err)

    def note(self, text: str) -> None:
        """A line of orch's own on stderr."""
        self.err.print(Text(text))

    def confirm(self, question: str) -> bool:
        """Ask on stderr; raises click.Abort at the end of stdin."""
        return click.confirm(visible(question), err=True)

    def write(self, text: str) -> None:
        """A command's result on stdout, its control characters written out."""
        self._write(visible(text).encode("utf-8"))

    def error(self, error: OrchError) -> None:
        """An error; printed with ``--json`` too."""
        console = Screen(stderr=True)
        for line in masked(str(error)).splitlines():
            console.print(Text.assemble(("error: ", "bold red"), line))

    def findings(self, findings: Sequence[Finding]) -> None:
        """What the preflight found."""
        for finding in findings:
            style = "bold red" if finding.severity == "fail" else "bold yellow"
            self.err.print(Text.assemble((f"{finding.severity}: ", style), masked(str(finding))))

    def examination(
        self, examined: Examined, findings: Sequence[Finding], errors: Sequence[OrchError], seconds: float
    ) -> None:
        """What doctor saw, on stdout: what each group of equal hosts is, then what is wrong, the worst first."""
        groups: dict[str, list[str]] = {}
        accused = {name for finding in findings for name in finding.nodes}
        for host in examined.hosts:
            state = "see below" if host.name in accused else "ok"
            groups.setdefault(f"{state}  {machine(examined, host.name)}", []).append(host.name)
        out = Screen(no_color=not self._coloured)
        for text, names in groups.items():
            style = "green" if text.startswith("ok") else "yellow"
            out.print(Text.assemble((folded(names), "bold"), ": ", (text, style)))
        for error in errors:
            out.print(Text.assemble(("fail: ", "bold red"), masked(str(error))))
        for finding in merged(findings):
            style = {"fail": "bold red", "warn": "bold yellow"}.get(finding.severity, "dim")
            where = finding.where if finding.pair else folded(finding.nodes)
            said = masked(finding.what + (f" → {finding.remedy}" if finding.remedy else ""))
            out.print(Text.assemble((f"{finding.severity}: ", style), (where, "bold"), f": {said}"))
        failed = len(errors) + sum(1 for finding in findings if finding.severity == "fail")
        warned = sum(1 for finding in findings if finding.severity == "warn")
        pairs = sum(len(others) for others in examined.probes.values())
        counts = [(failed, "failure"), (warned, "warning")]
        told = ", ".join(f"{count} {word}{'' if count == 1 else 's'}" for count, word in counts if count)
        out.print(
            f"{len(examined.hosts) + len(errors)} hosts, {pairs} pairs, {seconds:.1f} s: {told or 'all is well'}"
        )

    def settings(self, plan: LaunchPlan, environments: Sequence[str]) -> None:
        """A run's settings before it starts, so that the reader learns the command behind it."""
        self.err.print(settings_grid(plan, environments))
        self.err.print(plan_table(plan))
        for note in plan.notes:
            self.note(f"note: {note}")
        self.err.print(Text("on each node (orch plan shows it whole): " + short_command(plan), style="dim"))

    def plan(self, plan: LaunchPlan, form: str) -> None:
        """A plan on stdout as ``table``, ``sh``, ``ps1`` or ``json``."""
        if form == "table":
            self.out.print(plan_table(plan))
            for each in commands(plan):
                self.out.print(Text(f"\n{each.node}: cd {each.cwd}", style="bold"))
                for name, value in redacted(each.env).items():
                    self.out.print(Text(f"  {name}={value}", style="dim"))
                self.out.print(Text(f"  {shlex.join(masked_words(each.argv))}"))
                for path, text in each.files.items():
                    self.out.print(Text(f"  {path}:", style="dim"))
                    self.out.print(
                        Text("".join(f"    {line}\n" for line in text.splitlines()), style="dim"), end=""
                    )
            for note in plan.notes:
                self.note(f"note: {note}")
        else:
            # As it is: a control character in a word of the user's belongs to it.
            self._write(
                {"sh": as_sh, "ps1": as_ps1, "json": as_json}[form](plan).encode("utf-8", "surrogateescape")
            )

    def answer(self, hosts: Sequence[str], exit_code: int, out: bytes, err: bytes) -> None:
        """What a command printed on hosts that all said the same."""
        said = [f"exit code {exit_code}"] if exit_code else []
        said += [] if out or err else ["no output"]
        heading = f"{folded(hosts)}{': ' if said else ''}{', '.join(said)}"
        self.err.print(Text(heading, style="bold red" if exit_code else "bold"))
        self._write(harmless(out) if self._terminal else out)
        sys.stderr.buffer.write(harmless(err) if sys.stderr.isatty() else err)
        sys.stderr.flush()

    def output(self, output: Output) -> None:
        """A piece of output: whole lines with the node and rank before them. torchrun's own only if verbose."""
        if self._view is not None:
            self._view.output(output)
        if output.skipped:
            self.note(f"{output.node}: {output.skipped} bytes of {output.name} before this are not shown")
            return
        if output.stream == "torchrun" and not (self.verbose or self.as_json):
            # Harmless warnings, and pages of traceback at every stop. Its log has them.
            return
        key = (output.node, _label(output), output.stream)
        # What a rank printed before torchrun started it again is not continued.
        assembler = self._assemblers.get(whole := (*key, output.restart))
        if assembler is None:
            assembler = self._assemblers[whole] = LineAssembler(b"" if self.as_json else self._prefix(output))
        lines = assembler.feed(output.data)
        if self.as_json:
            self._write(_json_lines(key, lines))
        elif lines:
            # torchrun's own words are progress, not the workload's output.
            self._write_lines(lines, 2 if output.stream == "torchrun" else 1)
        elif progress := assembler.progress():
            now = time.monotonic()
            every = PROGRESS_EVERY[0 if self._terminal else 1]
            if now - self._progress_shown.get(key, now - every) >= every:
                self._progress_shown[key] = now
                self._write_lines(progress + b"\n", 1)

    @contextmanager
    def attempt(self, run_id: str, workload: str, attempt: int, nodes: Sequence[str]) -> Iterator[None]:
        """An attempt goes on on these nodes: on a terminal a view of them stays below the output meanwhile."""
        if attempt > 1:
            self.note(f"attempt {attempt} on {', '.join(nodes)}")
        if self.err.is_terminal and not self.as_json:
            self._view = View(run_id, workload, attempt, nodes, self.err)
            self._live = Live(
                get_renderable=self._view.__rich__,
                console=self.err,
                refresh_per_second=2,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        try:
            yield
        finally:
            self._end_of_output()

    @contextmanager
    def lines(self) -> Iterator[None]:
        """Output alone, with no view of a run."""
        try:
            yield
        finally:
            self._end_of_output()

    def recall(self, events: Sequence[Event]) -> None:
        """What happened before this display began to look."""
        if self._view is not None:
            for event in events:
                self._view.event(event)

    def sample(self, sample: Sample) -> None:
        """How busy a node is."""
        if self._view is not None:
            self._view.sample(sample)

    def _end_of_output(self) -> None:
        """Show the last lines that lack a newline, and end the view."""
        for (node, label, stream, _), assembler in self._assemblers.items():
            line = assembler.flush()
            if self.as_json:
                self._write(_json_lines((node, label, stream), line))
            elif line:
                self._write_lines(line, 2 if label == "torchrun" else 1)
        self._assemblers.clear()
        if self._live is not None:
            self._live.stop()
            self._live = self._view = None

    def event(self, event: Event) -> None:
        """An event of a run."""
        if self.as_json:
            self._write(to_line(event).encode() + b"\n")
            return
        if self._view is not None:
            self._view.event(event)
        told = _told(event)
        if told is not None:
            self.note(told)
        elif self.verbose:
            about = event.to_wire()
            fields = " ".join(f"{key}={about[key]}" for key in about if key not in ("event", "time", "node"))
            self.note(f"{event.node or '-'}: {event.KIND} {fields}")

    def detached(self, run_id: str) -> None:
        """How to come back to a run that goes on; its id is the command's result."""
        if self.as_json:
            self._write(json.dumps({"event": "detached", "run_id": run_id}).encode() + b"\n")
            return
        self.note(f"the run goes on: orch logs -f {run_id}, orch attach {run_id}, orch stop {run_id}")
        self.write(f"{run_id}\n")

    def compared(self, found: Mapping[str, Sequence[str]], tree: str) -> None:
        """How hosts differ from a tree, on stdout: hosts with the same lines together."""
        alike: dict[tuple[str, ...], list[str]] = {}
        for name, lines in found.items():
            alike.setdefault(tuple(lines), []).append(name)
        for lines, names in alike.items():
            count = f"{len(lines)} {'difference' if len(lines) == 1 else 'differences'}"
            self.write(f"{folded(names)}: {count if lines else f'tree {tree}'}\n")
            self.write("".join(f"  {line}\n" for line in lines))

    def named(self, lines: Mapping[str, str]) -> None:
        """Names with a line each, on stdout."""
        width = max(map(len, lines), default=0)
        self.write("".join(f"{name:<{width}}  {line}\n" for name, line in lines.items()))

    def runs(self, runs: Sequence[Run], everything: bool) -> None:
        """A list of runs on stdout; with ``--json`` one object a line."""
        if self.as_json:
            for run in runs:
                self.write(json.dumps(asdict(run)) + "\n")
            return
        if not runs:
            self.write("no runs\n" if everything else "nothing runs (orch ps --all shows what has ended)\n")
            return
        table = runs_table(runs)
        if self._terminal:
            self.out.print(table, soft_wrap=False)
            return
        plain = Screen(width=2000, color_system=None)
        with plain.capture() as captured:
            plain.print(table)
        self.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))

    def diagnosis(self, found: Diagnosis) -> None:
        """What went wrong, where, why, and what helps."""
        self.err.print(Text.assemble(("failed: ", "bold red"), found.what))
        self.err.print(Text.assemble(("  cause: ", "dim"), found.cause))
        for line in found.evidence[:3]:
            if line not in found.cause:
                self.err.print(Text.assemble(("  seen: ", "dim"), line))
        self.err.print(Text.assemble(("  remedy: ", "dim"), found.remedy))

    def summary(self, result: RunResult, folder: Path, found: Diagnosis | None, last_lines: Sequence[str]) -> None:
        """How each node ended, what went wrong and that rank's last lines, and where everything is."""
        self.err.print(nodes_table(result))
        for node in result.nodes.values():
            for left in node.left:
                self.note(f"{node.node}: left there: {left}")
            for alive in node.alive:
                self.note(f"{node.node}: could not be ended: {alive}")
        if found is not None:
            for line in last_lines:
                self.err.print(Text(f"  {line}", style="dim"))
            self.diagnosis(found)
        self.err.print(Text.assemble(("outputs, logs and events: ", "dim"), str(folder)))

    def _prefix(self, output: Output) -> bytes:
        text = f"[{output.node}:{_label(output)}{' err' if output.stream == 'stderr' else ''}]"
        if not self._coloured:
            return text.encode() + b" "
        colour = self._colours.setdefault(output.node, COLOURS[len(self._colours) % len(COLOURS)])
        weight = "2;" if output.stream != "stdout" else ""
        return f"\x1b[{weight}{ANSI[colour]}m{text}\x1b[0m ".encode()

    def _write_lines(self, lines: bytes, descriptor: int) -> None:
        """Lines of output: above the view if there is one on that terminal, else straight to the descriptor."""
        terminal = os.isatty(descriptor)
        if terminal:
            lines = harmless(lines)
        if self._live is not None and terminal:
            self.err.print(Block(lines.decode("utf-8", "replace")), end="", soft_wrap=True)
        else:
            self._write(lines, descriptor)

    def _write(self, data: bytes, descriptor: int = 1) -> None:
        """Straight to the descriptor: output comes in large blocks of bytes, not all of them text."""
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]


class Stage:
    """A running step; set ``result`` to what came of it."""

    result = ""


def _json_lines(key: tuple[str, str, str], lines: bytes) -> bytes:
    """Whole lines as events; bytes that are not UTF-8 are written as escapes."""
    node, label, stream = key
    about = {"event": "log", "node": node, "rank": int(label) if label.isdigit() else label, "stream": stream}
    texts = lines.decode("utf-8", "backslashreplace").split("\n")[:-1]
    return "".join(json.dumps({**about, "line": text}) + "\n" for text in texts).encode()


def _allowed(stop: events.StopRequested) -> str:
    """How long a stop may take; its user can cut it short."""
    again = "; Ctrl-C again ends them now" if stop.by_user else ""
    return f" (ranks have {stop.grace:g} s to end{again})" if stop.grace else ""


def _told(event: Event) -> str | None:
    """The line that an event is worth to everybody, or None."""
    match event:
        case events.StopRequested():
            return f"stopping: {event.reason}" + _allowed(event)
        case events.StopFailed():
            return f"{event.node}: could not be told to stop: {event.reason}"
        case events.Reconnecting():
            return f"{event.node}: connection lost ({event.reason}); trying again"
        case events.Reconnected():
            return f"{event.node}: connected again"
        case events.NodeLost():
            return f"{event.node}: lost, {event.reason}"
        case events.Orphaned():
            what = "the machine was started anew" if event.rebooted else "the run's supervisor was killed"
            return f"{event.node}: {what}"
        case events.Swept():
            return f"{event.node}: ended {event.processes} processes that were left over"
        case events.Fenced():
            return f"{event.node}: is back; what it still ran of this run was ended"
        case events.RankFailed():
            return f"{event.node}: rank {event.rank} failed"
    return None


def _label(output: Output) -> str:
    if output.stream == "torchrun":
        return "torchrun"
    return str(output.rank) if output.rank is not None else f"local{output.local_rank}"
