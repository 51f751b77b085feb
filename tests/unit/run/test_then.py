"""``--then``: what counts as a run whose outputs are here, and the command that follows it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from orchestrator.core.run.fetched import NEVER, missing
from orchestrator.errors import OrchError, SyncError, UsageError
from orchestrator.local.shell import run_line
from orchestrator.operations.afterwards import Afterwards
from orchestrator.operations.run.running import Live
from orchestrator.protocol.events import Event
from orchestrator.ui.display import Display
from tests.history import happened
from tests.unit.cli.program import invoked

PLANNED = happened(0, "planned", None, {"nodes": ["a", "b"], "attempt": 1})


def ended(node: str) -> Event:
    return happened(5, "finished", node, {"exit_code": 0, "signal": None, "stopped": False, "killed": 0})


def collected(node: str, *left: str) -> Event:
    return happened(6, "collected", node, {"files": 1, "bytes": 1, "left": list(left), "lacking": None})


NOT_COLLECTED = happened(6, "collect_failed", "b", {"reason": "no room"})
LOST = happened(7, "node_lost", "b", {"reason": "silence"})
HERE = [PLANNED, ended("a"), ended("b"), collected("a"), collected("b")]


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (HERE, {}),
        (HERE[:4], {"b": NEVER}),
        ([PLANNED], {"a": NEVER, "b": NEVER}),
        # What was fetched during the run says nothing about its end.
        ([PLANNED, collected("a"), collected("b"), ended("a"), ended("b"), collected("a")], {"b": NEVER}),
        ([*HERE[:4], NOT_COLLECTED], {"b": "could not be read: no room"}),
        ([*HERE[:4], NOT_COLLECTED, collected("b")], {}),
        (
            [*HERE[:4], collected("b", "big.pt (over outputs.max_size)")],
            {"b": "holds big.pt (over outputs.max_size)"},
        ),
        ([*HERE[:2], collected("a"), LOST], {"b": "was lost"}),
        # A further attempt, on other hosts.
        (
            [*HERE[:2], LOST, happened(8, "planned", None, {"nodes": ["a"], "attempt": 2}), ended("a")],
            {"a": NEVER},
        ),
    ],
)
def test_outputs_that_may_still_be_on_a_node(events: list[Event], expected: dict[str, str]) -> None:
    assert missing(events) == expected


def live(folder: Path, events: list[Event], exit_code: int | None) -> Live:
    engine = SimpleNamespace(last=SimpleNamespace(exit_code=exit_code))
    kept = SimpleNamespace(events=events, path=folder)
    return cast(Live, SimpleNamespace(run_id="run1", engine=engine, folder=kept))


LINE = 'echo "$ORCH_RUN_ID $ORCH_EXIT_CODE $ORCH_RUN_DIR" > told; '


@pytest.mark.parametrize(
    ("events", "run_code", "line", "code", "told", "said"),
    [
        (HERE, 0, LINE + "true", 0, "run1 0 {}\n", "then: exit code 0"),
        (HERE, 1, LINE + "true", 1, "run1 1 {}\n", "then: exit code 0"),
        (
            HERE,
            0,
            LINE + "exit 9",
            7,
            "run1 0 {}\n",
            "the command ended with exit code 9 → the run's outputs are here",
        ),
        (HERE, 130, LINE + "kill -9 $$", 130, "run1 130 {}\n", "then: exit code 137"),
        (HERE[:3], 0, LINE, 7, None, "--then: not run, because outputs are missing here: a was not asked"),
        (HERE[:4], 5, LINE, 5, None, "orch attach run1 --then 'echo "),
    ],
)
def test_the_command_follows_a_run_whose_outputs_are_here(
    events: list[Event],
    run_code: int,
    line: str,
    code: int,
    told: str | None,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Afterwards(line, Display()).run(live(Path("runs/run1"), events, run_code), run_code) == code
    found = tmp_path / "told"
    assert (found.read_text() if found.exists() else None) == (told and told.format(tmp_path / "runs/run1"))
    assert said in " ".join(capfd.readouterr().err.split())


def test_a_run_that_goes_on_is_not_followed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = f"touch {tmp_path}/made"
    assert Afterwards(line, Display()).run(live(tmp_path, HERE, None), 0) == 0
    with pytest.raises(OrchError), Afterwards(line, Display()).expected():
        raise SyncError("no")
    assert not (tmp_path / "made").exists()
    said = " ".join(capfd.readouterr().err.split())
    assert "then: not run: the run goes on → orch attach run1 --then 'touch" in said
    assert "then: not run: the run was not seen to its end" in said
    assert Afterwards(None, Display()).run(live(tmp_path, HERE, None), 3) == 3


def test_with_json_stdout_carries_only_events(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    display = Display(as_json=True)
    assert Afterwards("echo said", display).run(live(tmp_path, HERE, 0), 0) == 0
    assert Afterwards("echo said", display).run(live(tmp_path, HERE[:3], 0), 0) == 7
    out, err = capfd.readouterr()
    first, second = map(json.loads, out.splitlines())
    assert first == {"event": "then", "exit_code": 0} and "said" in err
    assert second["exit_code"] is None and "outputs are missing here" in second["reason"]


def test_signals_reach_the_command_and_not_orch(tmp_path: Path) -> None:
    """A terminal sends SIGINT to both; SIGTERM comes to orch alone."""
    script = tmp_path / "waits.sh"
    script.write_text("trap 'exit 5' TERM\ntouch ready\nwhile :; do sleep 0.05; done\n")

    def send() -> None:
        deadline = time.monotonic() + 20
        while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGINT)
    sender = threading.Thread(target=send)
    sender.start()
    status = run_line(f"cd {tmp_path} && exec sh waits.sh", {})
    sender.join()
    assert status == 5 and signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--detach", "--then", "true"], "--detach and --then exclude each other"),
        (["--then", " "], "--then ' ': expected a command"),
    ],
)
def test_what_makes_no_sense_is_refused(options: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "hosts.yaml").write_text("hosts: {a: {address: 192.0.2.1}}")
    with pytest.raises(UsageError) as error:
        invoked("run", "--hosts", str(tmp_path / "hosts.yaml"), *options, "hello")
    assert said in str(error.value) and "\n" not in str(error.value)
