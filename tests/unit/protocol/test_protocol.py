"""The protocol: each version reads what another wrote, and messages check their fields."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from orchestrator.core.run.result import fold
from orchestrator.local.run_folder import read_events
from orchestrator.node.host import door, paths
from orchestrator.node.run import journal, sample
from orchestrator.node.run.follow import sizes_at
from orchestrator.protocol import VERSION
from orchestrator.protocol.events import KINDS, Finished, NodeLost, Planned, from_line, to_line
from orchestrator.protocol.message import Message
from orchestrator.protocol.run import AskStatus, AskStop, Follow, Holder, Kept, Stop
from orchestrator.protocol.shapes import Misshapen
from tests.conftest import ROOT

# Written by the last version that had no number.
BEFORE = ROOT / "tests" / "recorded" / "version0"
RUN = "20261124-134030-fa31"


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A node's folder of an attempt that an earlier version supervised."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = Path(paths.attempt_dir(RUN, 1))
    shutil.copytree(BEFORE, folder)
    return str(folder)


def test_an_attempt_of_an_earlier_version_is_read(attempt: str) -> None:
    kept = paths.kept(RUN, 1)
    assert kept is not None and VERSION > kept.version == 0
    assert (kept.node, kept.node_rank, kept.nodes) == ("node2", 1, ("node1", "node2"))
    assert [event.KIND for event in journal.read(attempt)] == ["torchrun_started", "worker", "finished"]
    busy = sample.last(attempt)
    assert busy is not None and busy.memory_total == 25276514304
    assert sizes_at(attempt, 1795527641.3) == {"0.stdout": 0, "0.stderr": 0, "torchrun": 0}


def test_what_an_earlier_control_process_recorded_is_read(tmp_path: Path) -> None:
    shutil.copy(BEFORE / "control.jsonl", tmp_path / "events.jsonl")
    result = fold(read_events(tmp_path))
    assert result.ok and result.nodes["node1"].collected == 3


def test_an_earlier_supervisor_is_understood_at_its_door() -> None:
    status, other, gone = (Holder.from_wire(json.loads(line)) for line in (BEFORE / "door.jsonl").open())
    assert (status.run_id, status.attempt, status.stopping, status.version) == (RUN, 1, False, 0)
    assert other.other and gone.gone and not gone.foreign
    # An earlier supervisor looks for these three keys.
    assert AskStop(run_id=RUN, grace=3.0).to_wire() == {"op": "stop", "run_id": RUN, "grace": 3.0}


def test_a_later_version_may_say_more() -> None:
    assert Kept.from_wire(
        {"run_id": "r", "attempt": 1, "work": "/w", "workdir": "/d", "tree": "ab" * 16, "version": 9, "new": [1]}
    ) == Kept(run_id="r", attempt=1, work="/w", workdir="/d", tree="ab" * 16, version=9)
    line = '{"event": "node_lost", "time": 1, "node": "gpu1", "reason": "x", "new": {"a": 1}}'
    assert from_line(line) == NodeLost(time=1, node="gpu1", reason="x")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "message: list: expected an object"),
        ({"run_id": "r"}, "message: expected the key grace"),
        ({"run_id": "../x", "grace": 1}, 'message.run_id: "../x": expected text like'),
        ({"run_id": None, "grace": -1}, "message.grace: -1: expected a number"),
        ({"run_id": None, "grace": float("nan")}, "message.grace: NaN: expected a number"),
    ],
)
def test_a_message_that_is_none_is_refused_in_one_line(value: object, said: str) -> None:
    with pytest.raises(Misshapen) as refused:
        Stop.from_wire(value)
    assert str(refused.value).startswith(said) and "\n" not in str(refused.value)


def test_messages_are_values() -> None:
    asked = Follow(run_id="r", offsets={"events": 2}, ranks=(0, 3))
    assert Follow.from_wire(json.loads(json.dumps(asked.to_wire()))) == asked
    assert asked.replace(tail=9) == Follow(run_id="r", offsets={"events": 2}, ranks=(0, 3), tail=9)
    with pytest.raises(AttributeError, match="immutable"):
        asked.run_id = "s"  # type: ignore[misc]
    with pytest.raises(TypeError, match="Follow: no run_id"):
        Follow()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Follow: unknown: nodes"):
        Follow(run_id="r", nodes=())  # type: ignore[call-arg]


def test_a_field_may_have_a_key_that_is_no_name_in_python() -> None:
    (carried,) = (kind for kind in KINDS.values() if kind.KIND == "carried")
    event = carried.from_wire({"time": 1, "node": "b", "files": ["x"], "from": ["a"]})
    assert json.loads(to_line(event))["from"] == ["a"] and "sources" not in event.to_wire()


def test_every_kind_of_event_is_known_by_its_name() -> None:
    assert all(name == kind.KIND for name, kind in KINDS.items()) and "" not in KINDS
    assert isinstance(Planned(time=1, nodes=("a",)), Message) and KINDS["finished"] is Finished


@pytest.mark.parametrize(
    "line",
    [b'{"op": "status"}', b'{"op": "status", "run_id": null, "grace": 0.0, "more": 1}'],
)
def test_questions_of_either_version_are_heard(line: bytes) -> None:
    assert door.parsed(line) == AskStatus()
