"""Nodes that send what no node program would: the control side ends with one line that names the node."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.protocol import frames as wire
from tests.conftest import ROOT
from tests.hostile import VERBS, Verb, error_of, framed, mutated, node_that_says, outside

SOME = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
def test_what_an_honest_node_says_is_understood(verb: Verb, tmp_path: Path) -> None:
    verb.do(node_that_says(verb.honest()), tmp_path)


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
@SOME
@given(data=st.data())
def test_changed_messages_end_in_one_line(verb: Verb, tmp_path: Path, data: st.DataObject) -> None:
    before = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    error = error_of(verb, data.draw(mutated(verb.frames)), tmp_path)
    assert error is None or len(error.splitlines()) == 1, error
    assert outside(tmp_path, before) == set()


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.name)
@SOME
@given(said=st.binary(max_size=300))
def test_bytes_that_are_no_messages_end_in_one_line(verb: Verb, tmp_path: Path, said: bytes) -> None:
    before = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    error_of(verb, said, tmp_path)
    assert outside(tmp_path, before) == set()


PRINTS = r"""
from orchestrator.core.checks.findings import Finding
from orchestrator.ui.answers import show_answer, show_compared
from orchestrator.ui.display import Display
from orchestrator.ui.doctor import show_findings
from orchestrator.ui.run import RunDisplay
from orchestrator.errors import OrchError
from orchestrator.core.run.output import Output
display = Display()
evil = "\x1b]52;c;aGk=\x07\x1b[2J\x9b5n [/eth0] [red]"
display.error(OrchError(evil, host="gpu1"))
display.note(evil)
show_findings(display, [Finding(("gpu1",), "warn", evil, evil)])
show_compared(display, {"gpu1": [evil]}, "tree")
run = RunDisplay(display)
run.output(Output("gpu1", 0, 0, "stdout", b"\x1b[31mred\x1b[0m \x1b]52;c;aGk=\x07\x1b]0;title\x07ok\n"))
run.end_of_output()
show_answer(display, ["gpu1"], 0, b"\x1b]2;title\x1b\\ \x1b[32mgreen\x1b[0m\n", b"")
"""


def test_nothing_from_outside_commands_the_terminal() -> None:
    master, slave = pty.openpty()
    argv = [sys.executable, "-c", PRINTS]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    subprocess.run(argv, stdout=slave, stderr=slave, env=env, check=True, timeout=30)
    os.close(slave)
    shown = b""
    while True:
        try:
            shown += os.read(master, 65536)
        except OSError:
            break
    os.close(master)
    for sequence in (b"\x1b]52", b"\x1b]0;", b"\x1b]2;", b"\x1b[2J", b"\xc2\x9b"):
        assert sequence not in shown, shown
    # In orch's own messages the sequences are written out and brackets stay; ranks keep their colours.
    assert shown.count(rb"\x1b[2J\x9b5n [/eth0] [red]") >= 4
    assert b"\x1b[31mred\x1b[0m ok" in shown and b"\x1b[32mgreen\x1b[0m" in shown


def test_output_that_goes_to_a_file_is_unchanged() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", PRINTS], capture_output=True, env=env, check=True, timeout=30)
    assert b"\x1b[31mred\x1b[0m \x1b]52;c;aGk=\x07\x1b]0;title\x07ok\n" in done.stdout
    assert b"\x1b]2;title\x1b\\ \x1b[32mgreen" in done.stdout


LARGE = {
    "lists": b'{"work": "/w", "files": [' + b"[]," * 3_000_000 + b"[]]}",
    "text": b'{"work": "' + b"x" * 15_000_000 + b'", "files": []}',
    "digits": b'{"work": ' + b"1" * 900_000 + b', "files": []}',
    "depth": b"[" * 900_000,
}


@pytest.mark.parametrize("payload", LARGE.values(), ids=LARGE)
def test_a_large_message_is_refused_before_it_is_made(payload: bytes, tmp_path: Path) -> None:
    said = wire.HEAD.pack(wire.JSON, len(payload)) + payload
    collecting = next(verb for verb in VERBS if verb.name == "collect")
    tracemalloc.start()
    try:
        error = error_of(collecting, said, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert error is not None and "broke the protocol" in error
    assert peak < 100_000_000


def test_what_is_deflated_may_not_swell_without_end(tmp_path: Path) -> None:
    bomb = zlib.compress(b"[" + b" " * (300 << 20) + b"]")
    said = framed({"have": False, "disk_id": None, "base": "ab" * 16}) + wire.data_frame(bomb)
    pushing = next(verb for verb in VERBS if verb.name == "store")
    tracemalloc.start()
    try:
        error = error_of(pushing, said, tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(bomb) < 400_000 and error is not None and "broke the protocol: damaged, or more than" in error
    assert peak < 100_000_000
