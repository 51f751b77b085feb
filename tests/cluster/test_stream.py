"""Streaming: the lines of a rank arrive whole, in order and once, whatever bytes they hold."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.text.lines import LONGEST_LINE, LineAssembler
from orchestrator.protocol import frames as wire
from tests.conftest import Orch


@given(st.lists(st.binary(max_size=20)), st.integers(1, 7))
def test_pieces_make_the_same_lines_as_the_whole(parts: list[bytes], size: int) -> None:
    data = b"\n".join(parts).replace(b"\r", b"")
    assembler = LineAssembler(b"> ")
    out = b"".join(assembler.feed(data[at : at + size]) for at in range(0, len(data), size)) + assembler.flush()
    lines = data.split(b"\n")
    expected = b"".join(b"> " + line + b"\n" for line in lines[:-1])
    assert out == expected + (b"> " + lines[-1] + b"\n" if lines[-1] else b"")


def test_a_progress_bar_keeps_its_last_state() -> None:
    assembler = LineAssembler(b"")
    assert assembler.feed(b"\r10%") == b""
    assert assembler.progress() == b"10%"
    assert assembler.feed(b"\r20%\r100%\r\nnext") == b"100%\n"
    assert assembler.progress() is None
    assert assembler.flush() == b"next\n"


def test_a_line_without_end_does_not_fill_the_memory() -> None:
    assembler = LineAssembler(b"")
    given = shown = 0
    for _ in range(100):
        given += 100_000
        shown += assembler.feed(b"x" * 100_000).count(b"x")
        assert given - shown <= LONGEST_LINE
    assert shown + assembler.flush().count(b"x") == given


@given(st.lists(st.binary(max_size=50)), st.binary(max_size=30), st.integers(1, 9))
def test_frames_survive_any_splitting_and_noise(payloads: list[bytes], noise: bytes, size: int) -> None:
    data = noise + wire.preamble("n1") + b"".join(wire.data_frame(payload) for payload in payloads)
    splitter = wire.Splitter("n1")
    frames = [frame for at in range(0, len(data), size) for frame in splitter.feed(data[at : at + size])]
    assert frames == [(wire.DATA, payload) for payload in payloads]
    assert splitter.noise == noise


FLOOD = """
import os, sys
if os.environ["RANK"] == "0":
    count = int(sys.argv[1])
    for first in range(0, count, 10000):
        sys.stdout.write("".join(f"{n:079d}\\n" for n in range(first, min(count, first + 10000))))
"""


@pytest.mark.cluster
@pytest.mark.torch
def test_a_flood_arrives_whole_and_in_order(orch: Orch, tmp_path: Path) -> None:
    (orch.folder / "flood.py").write_text(FLOOD)
    count = 500_000
    with (tmp_path / "out").open("wb") as out:
        done = subprocess.run(
            orch.argv("run", "--nodes", "1", "flood.py", "--", str(count)),
            cwd=orch.folder,
            env=orch.env,
            stdout=out,
            stderr=subprocess.PIPE,
            timeout=120,
        )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out").open("rb") as lines:
        for number, line in enumerate(lines):
            assert line == b"[node1:0] %079d\n" % number
    assert number == count - 1


@pytest.mark.cluster
@pytest.mark.torch
def test_streams_are_told_apart_and_bytes_survive(orch: Orch) -> None:
    script = "import sys\nsys.stdout.buffer.write(b'raw \\xff\\xfe\\npartial')\nsys.stderr.write('oops\\n')\n"
    (orch.folder / "odd.py").write_text(script)
    done = subprocess.run(
        orch.argv("run", "--nodes", "1", "odd.py"), cwd=orch.folder, env=orch.env, capture_output=True, timeout=60
    )
    assert sorted(done.stdout.splitlines()) == [
        b"[node1:0 err] oops",
        b"[node1:0] partial",
        b"[node1:0] raw \xff\xfe",
    ]
    events = orch("run", "--json", "--nodes", "1", "odd.py").stdout.splitlines()
    logs = [event for event in map(json.loads, events) if event["event"] == "log"]
    assert {(event["stream"], event["line"]) for event in logs} >= {
        ("stdout", "raw \\xff\\xfe"),
        ("stderr", "oops"),
    }
