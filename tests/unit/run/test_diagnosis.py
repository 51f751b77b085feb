"""Diagnosis: the cause, the culprit and the remedy that follow from recorded events and logs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.diagnosis.diagnosis import ENDINGS, Diagnosis, diagnose, scan
from orchestrator.core.diagnosis.signatures import SIGNATURES, Kind, Signature
from orchestrator.core.run.result import fold
from orchestrator.protocol.events import Event, from_line, to_line
from orchestrator.ui.run import nodes_table
from tests.conftest import ROOT
from tests.history import happened

RECORDED = ROOT / "tests" / "recorded"
PLANNED = happened(0, "planned", None, {"nodes": ["a", "b", "c"], "attempt": 1})
ENDED: Mapping[str, Any] = {"exit_code": 1, "signal": None, "stopped": False, "killed": 0, "oom_kills": 0}


def failed(node: str, rank: int | None, time: float, code: int | None = 1, signal: int | None = None) -> Event:
    fields = {"rank": rank, "exit_code": code, "signal": signal, "message": None}
    return happened(time, "rank_failed", node, fields)


def said(node: str, rank: int | None, text: str) -> list[Event]:
    """Return the evidence in the end of a log, as a run records it."""
    return [
        happened(90, "evidence", node, {"rank": rank, "signature": signature, "line": line})
        for signature, line in scan(text)
    ]


def told(*events: Event) -> Diagnosis:
    found = diagnose(fold(from_line(to_line(event)) for event in [PLANNED, *events]))
    assert found is not None
    return found


@pytest.mark.parametrize("signature", SIGNATURES, ids=lambda signature: signature.name)
def test_each_signature_is_known_by_its_line(signature: Signature) -> None:
    traceback = f"Traceback (most recent call last):\n  File 't.py', line 3\n{signature.example}\n"
    assert [name for name, _ in scan(traceback)] == [signature.name]
    found = told(failed("b", 1, 5.0), *said("b", 1, traceback))
    assert (found.signature, found.node, found.rank) == (signature.name, "b", 1)
    assert found.remedy == signature.remedy and "{0}" not in found.cause
    assert found.evidence == (signature.example.strip(),)


def test_a_cause_names_what_the_line_names() -> None:
    line = "ModuleNotFoundError: No module named 'einops'"
    assert told(failed("b", 1, 5.0), *said("b", 1, line)).cause.startswith("the Python module einops")


@pytest.mark.parametrize(
    "signal, name",
    [
        (9, "killed"),
        (11, "segmentation-fault"),
        (7, "bus-error"),
        (6, "aborted"),
        (15, "terminated"),
        (31, "signal"),
    ],
)
def test_signals(signal: int, name: str) -> None:
    assert told(failed("b", 1, 5.0, None, signal)).signature == name


def test_killed_for_memory_only_if_the_kernel_says_so() -> None:
    ended = happened(6, "finished", "b", {**ENDED, "oom_kills": 1})
    assert told(failed("b", 1, 5.0, None, 9), ended).signature == "killed-for-memory"


@pytest.mark.parametrize("code, name", [(126, "not-permitted"), (127, "not-found"), (1, "torchrun-ended")])
def test_a_torchrun_that_fails_itself(code: int, name: str) -> None:
    assert told(happened(1, "finished", "b", {**ENDED, "exit_code": code})).signature == name


def test_an_exception_is_named_and_its_log_shown() -> None:
    text = "Traceback (most recent call last):\n  File 't.py'\nKeyError: 'x'\n\nDuring handling of the above\n"
    text += "Traceback (most recent call last):\n  File 't.py'\nmy.pkg.OddError: no such thing\n"
    found = told(failed("b", 1, 5.0), *said("b", 1, text))
    assert (found.signature, found.cause, found.show_log) == ("exception", "my.pkg.OddError: no such thing", True)


def test_torchs_own_prefix_is_no_part_of_a_line() -> None:
    text = "[rank1]: Traceback (most recent call last):\n[rank1]:   File 't.py'\n[rank1]: ValueError: oops\n"
    assert scan(text) == [("exception", "ValueError: oops")]


def test_a_disk_too_full_for_the_traceback() -> None:
    event = failed("b", 1, 1).replace(full_disks=("/scratch",))
    found = told(event)
    assert (found.signature, found.evidence) == ("disk-full", ("/scratch",))


def test_who_was_left_by_a_peer_is_not_to_blame() -> None:
    peer = "RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer [10.0.0.2]:13471"
    oops = "Traceback (most recent call last):\n  File 't.py'\nValueError: oops\n"
    found = told(failed("a", 0, 1.0), failed("b", 1, 2.0), *said("a", 0, peer), *said("b", 1, oops))
    assert (found.node, found.cause) == ("b", "ValueError: oops")


def test_a_rank_that_was_stopped_before_it_could_fail_is_found_by_its_output() -> None:
    peer = "RuntimeError: Connection reset by peer"
    oops = "Traceback (most recent call last):\n  File 't.py'\nValueError: oops\n"
    found = told(failed("a", 0, 1.0), *said("a", 0, peer), *said("c", 2, oops))
    assert (found.node, found.rank, found.cause) == ("c", 2, "ValueError: oops")


def test_a_killed_rank_beats_the_others_network_errors_and_timeouts() -> None:
    events = [
        failed("a", 0, 1.0),
        failed("b", 1, 3.0, None, 9),
        *said("a", 0, "RuntimeError: Timed out waiting 1800000ms for recv operation to complete"),
        *said("c", 2, "SO_ERROR: Connection refused, remote=[10.0.0.2]:1"),
    ]
    assert told(*events).node == "b"


def test_a_lost_node_beats_what_its_loss_did_to_others() -> None:
    lost = happened(35, "node_lost", "b", {"reason": "no answer for 30 s"})
    found = told(failed("a", 0, 1.0), *said("a", 0, "Connection closed by peer"), lost)
    assert (found.signature, found.node) == ("node-lost", "b")


def test_exit_0_here_and_a_closed_connection_there_are_uneven_steps() -> None:
    done = happened(1, "finished", "b", {**ENDED, "exit_code": 0})
    found = told(done, failed("a", 0, 2.0), *said("a", 0, "RuntimeError: Connection closed by peer"))
    assert found.signature == "uneven-steps"


@pytest.mark.parametrize("numbers, name", [((42, 42), "collective-timeout"), ((42, 43), "code-diverged")])
def test_a_collective_timeout_is_the_network_where_all_wait_in_the_same(
    numbers: tuple[int, int], name: str
) -> None:
    line = "Watchdog caught collective operation timeout: WorkNCCL(SeqNum={}, OpType=ALLREDUCE"
    events = [failed(node, rank, 1.0, None, 6) for rank, node in enumerate("ab")]
    lines = [said(node, rank, line.format(numbers[rank])) for rank, node in enumerate("ab")]
    assert told(*events, *lines[0], *lines[1]).signature == name


def test_harmless_warnings_are_no_evidence() -> None:
    text = "[W socket.cpp:207] [c10d] The hostname of the client socket cannot be retrieved. err=-3\n"
    text += "[c10d] The IPv6 network addresses of (a, 1) cannot be retrieved (gai error: -2) errno: 97 - no\n"
    assert scan(text) == []


def test_a_user_who_stops_a_run_is_told_of_no_failure() -> None:
    stopped = happened(1, "stop_requested", None, {"reason": "interrupted", "by_user": True})
    result = fold([PLANNED, stopped, failed("a", 0, 2.0)])
    assert result.stopped_by_user and diagnose(result) is None


@pytest.mark.parametrize("file", sorted(RECORDED.glob("*.jsonl")), ids=lambda file: file.stem)
def test_recorded_runs(file: Path) -> None:
    """Diagnose runs that really failed this way as they were diagnosed when they were recorded."""
    events = [from_line(line) for line in file.read_text().splitlines()]
    (expected,) = (event for event in events if event.KIND == "diagnosed")
    found = diagnose(fold(event for event in events if event.KIND != "diagnosed"))
    assert found is not None
    assert found.as_event(expected.time) == expected
    assert found.signature == file.stem


def test_the_table_has_enough_of_them() -> None:
    assert len(SIGNATURES) + len(ENDINGS) >= 25
    assert sorted({signature.kind for signature in SIGNATURES}) == [
        Kind.CAUSE,
        Kind.NETWORK,
        Kind.TIMEOUT,
        Kind.PEER,
    ]


def test_a_node_whose_rank_failed_is_no_stopped_one() -> None:
    """orch stopped torchrun before torchrun itself had reported the failed rank."""
    text = (RECORDED / "invalid-device.jsonl").read_text()
    result = fold(from_line(line) for line in text.splitlines())
    assert (result.nodes["node1"].state, result.nodes["node1"].signal) == ("stopped", 15)
    columns = [list(column.cells) for column in nodes_table(result).columns]
    assert [str(cell) for (cell,) in columns] == ["node1", "failed", "1", "4.1 s", "0 files"]
