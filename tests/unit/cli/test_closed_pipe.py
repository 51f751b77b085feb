"""A reader that goes before ``orch`` has written everything, as ``head`` does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.core.run.output import Output
from orchestrator.errors import CLOSED_PIPE
from orchestrator.local.run_folder import RunFolder
from orchestrator.operations.run.recording import Recording
from orchestrator.ui.display import Display
from tests.conftest import ROOT
from tests.unit.launch.plans import planned


@pytest.mark.parametrize(
    "words", [["--help"], ["help"], ["--version"], ["hosts"], ["rnu"], ["run", "--hots", "x"]]
)
@pytest.mark.parametrize("closed", ["stdout", "both"])
def test_a_verb_ends_as_with_other_tools(words: list[str], closed: str, tmp_path: Path) -> None:
    (tmp_path / "hosts.yaml").write_text("hosts: {a: {}}")
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=writing,
        stderr=subprocess.PIPE if closed == "stdout" else writing,
        text=True,
        timeout=60,
    )
    os.close(writing)
    refused = words[0] in ("rnu", "run")
    assert done.returncode == (2 if refused and closed == "stdout" else CLOSED_PIPE)
    assert "Traceback" not in (done.stderr or "") and bool(done.stderr) == (refused and closed == "stdout")


def test_a_run_is_left_once_and_recorded_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, display = RunFolder.create(tmp_path, planned()), Display()
    heard: list[object] = []
    left: list[str] = []

    def broken(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(display, "write_bytes", broken)
    recording = Recording(folder, "t.py", display, heard.append)
    recording.left = lambda: left.append("left")
    for number in range(2):
        recording.output(Output("a", 0, 0, "stdout", f"line {number}\n".encode()))
    folder.close()
    assert (recording.unread, left, len(heard)) == (True, ["left"], 2)
    assert (folder.path / "logs" / "a" / "rank0.stdout.log").read_text() == "line 0\nline 1\n"
