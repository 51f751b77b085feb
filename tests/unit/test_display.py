"""What a command shows: what redraws itself and where, tables without trailing blanks, and failures once."""

from __future__ import annotations

import ast
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
from rich.table import Table

from orchestrator.core.checks.findings import Examined, warn
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.inventory.provenance import Origin
from orchestrator.core.run.listing import ListedRun
from orchestrator.core.run.result import fold
from orchestrator.errors import ConnectRefused, HostErrors, OrchError
from orchestrator.protocol.events import Planned
from orchestrator.ui.console import Screen
from orchestrator.ui.display import Display
from orchestrator.ui.doctor import show_examination, show_findings
from orchestrator.ui.inventory.origins import show_origins
from orchestrator.ui.plan import plan_table, settings_grid, show_plan, show_settings
from orchestrator.ui.quiet import QuietDisplay
from orchestrator.ui.run import nodes_table
from orchestrator.ui.runs import runs_table, show_runs
from tests.conftest import ROOT
from tests.history import happened
from tests.unit.launch.plans import planned

SHOWS = """
from orchestrator.core.run.output import Output
from orchestrator.ui.display import Display
from orchestrator.ui.run import RunDisplay
display = Display()
with display.stage("connecting"):
    pass
with display.transfer("data", {"a": 10, "b": 10}) as transfer:
    transfer.advance("a", 10)
with display.saying(["a"]) as builds:
    builds.line("a", "Collecting torch")
    builds.done("a")
run = RunDisplay(display)
with run.attempt("20261121-120000-abcd", "train", 2, ["a", "b"]):
    run.output(Output("a", 0, 0, "stdout", b"epoch 1\\n"))
"""


def shown(stdout_too: bool) -> tuple[bytes, bytes]:
    """Return what a terminal gets from ``SHOWS``, and what a pipe gets that takes stdout."""
    master, slave = pty.openpty()
    pieces: list[bytes] = []

    def read() -> None:
        while True:
            try:
                pieces.append(os.read(master, 65536))
            except OSError:
                return

    reader = threading.Thread(target=read)
    reader.start()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "80"}
    out = slave if stdout_too else subprocess.PIPE
    argv = [sys.executable, "-c", SHOWS]
    done = subprocess.run(argv, stdin=slave, stdout=out, stderr=slave, env=env, check=True, timeout=60)
    os.close(slave)
    reader.join()
    os.close(master)
    return b"".join(pieces), done.stdout or b""


def test_a_terminal_has_a_live_view() -> None:
    terminal, _ = shown(stdout_too=True)
    assert b"\x1b[?25l" in terminal and b"Ctrl-C stops the run" in terminal and b"epoch 1" in terminal


def test_with_stdout_piped_stderr_has_plain_lines() -> None:
    terminal, piped = shown(stdout_too=False)
    assert piped == b"[a:0] epoch 1\n"
    # Colours only: nothing moves the cursor or erases lines.
    assert not any(word in terminal for word in (b"\x1b[?25l", b"\x1b[1A", b"\x1b[2K", b"\r\x1b", b"Ctrl-C")), (
        terminal
    )
    assert b"connecting" in terminal and b"a: built in" in terminal and b"attempt 2 on a, b" in terminal


def tables() -> dict[str, Table]:
    """Return every table that orch prints, with cells of several lengths in each column."""
    plan = planned(Host("a", "a"), Host("longer-name", "b"))
    run = ListedRun("20261121-120000-abcd", 1, "running", "train", "me", ("a",), (), 2, 0, 60.0, None, "epoch 1")
    short = ListedRun(
        "20261121-120000-abce", 1, "stopped", "t", "somebody", ("a", "b"), (), 2, 1, None, None, None
    )
    result = fold(
        [
            Planned(time=0, nodes=("a", "longer-name"), attempt=1),
            happened(1, "node_lost", "a", {"reason": "no answer"}),
        ]
    )
    return {
        "plan": plan_table(plan),
        "settings": settings_grid(plan, ["/usr/bin/python3"]),
        "runs": runs_table([run, short]),
        "nodes": nodes_table(result),
    }


@pytest.mark.parametrize("name", ["plan", "settings", "runs", "nodes"])
@pytest.mark.parametrize("width", [0, 60, 200])
def test_no_line_of_a_table_ends_with_a_blank(capfd: pytest.CaptureFixture[str], name: str, width: int) -> None:
    display = Display()
    if width:
        # As on a terminal of this width.
        display.out = Screen(force_terminal=True, color_system=None, width=width)
        display.err = Screen(force_terminal=True, color_system=None, width=width, stderr=True)
    display.table(tables()[name])
    display.table(tables()[name], display.err)
    for text in capfd.readouterr():
        lines = text.splitlines()
        assert len(lines) > 2 and all(line == line.rstrip() and line for line in lines), text
        assert not width or all(len(line) <= width for line in lines)


def test_piped_verbs_print_no_trailing_blanks(capfd: pytest.CaptureFixture[str]) -> None:
    display = Display()
    plan = planned(Host("a", "a"), Host("longer-name", "b"))
    show_settings(display, plan, ["/usr/bin/python3"])
    show_plan(display, plan, "table")
    show_runs(display, [ListedRun("1", 1, "running", "t", "me", ("a",), (), 2, 0, 60.0, None, None)], True)
    show_origins(display, [Origin("master", "a", "default")], {"a": [Origin("user", "me", "default")]})
    display.named({"a": "", "longer": "text"})
    for text in capfd.readouterr():
        assert text and all(line == line.rstrip() for line in text.splitlines()), text


def test_every_table_is_one_of_these_and_goes_through_the_printer() -> None:
    makers, printers = set(), set()
    for file in (ROOT / "orchestrator" / "ui").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                makers |= {file.stem} if called in ("Table", "Table.grid") else set()
                text = ast.unparse(node)
                printers |= {text} if called.endswith(".print") and ("table" in text or "grid" in text) else set()
    # The live view is drawn by rich and leaves nothing behind.
    assert makers == {"plan", "run", "runs", "listing", "curves", "origins", "view"}
    assert printers == {
        "screen.print(Trimmed(table), soft_wrap=False, end='')",
        "plain.print(Trimmed(table), end='')",
    }


def failing(count: int) -> list[OrchError]:
    return [
        ConnectRefused(f"root@10.0.0.{n}:22 refused the connection", remedy="start sshd", host=f"n{n}")
        for n in range(1, count + 1)
    ]


ONCE = "n[1-3]: root@10.0.0.[1-3]:22 refused the connection → start sshd"


@pytest.mark.parametrize(
    ("show", "lines"),
    [
        (lambda display: display.error(HostErrors(failing(3), 5)), [f"error: {ONCE}", "error: the other 2 of 5 hosts are fine"]),
        (lambda display: display.error(HostErrors(failing(3), 3)), [f"error: {ONCE}"]),
        (lambda display: display.errors(failing(3)), [f"error: {ONCE}"]),
        (
            lambda display: show_examination(display, Examined((), {}), (), failing(3), 1.0),
            [f"fail: {ONCE}", "3 hosts, 0 pairs, 1.0 s: 3 failures"],
        ),
        (
            lambda display: show_examination(display, Examined((), {}), (), failing(1), 1.0),
            [
                "fail: n1: root@10.0.0.1:22 refused the connection → start sshd",
                "1 host, 0 pairs, 1.0 s: 1 failure",
            ],
        ),
    ],
)  # fmt: skip
def test_failures_of_several_hosts_are_one_line(
    capsys: pytest.CaptureFixture[str], show: Callable[[Display], None], lines: list[str]
) -> None:
    show(Display())
    assert "".join(capsys.readouterr()).splitlines() == lines


def test_a_program_hears_of_failures_once() -> None:
    heard: list[str] = []
    QuietDisplay(heard.append).error(HostErrors(failing(3), 3))
    assert heard == [f"error: {ONCE}"]


def test_the_preflights_findings_name_hosts_in_short_form(capsys: pytest.CaptureFixture[str]) -> None:
    from orchestrator.core.checks.findings import merged

    show_findings(Display(), merged([warn(f"n{number}", "sleeps", "wake it") for number in range(1, 4)]))
    assert capsys.readouterr().err == "warn: n[1-3]: sleeps → wake it\n"
