"""The engine on fake nodes: what needs a failing network otherwise, in milliseconds and without root."""

from __future__ import annotations

import pytest

from orchestrator.core.run import actions, inputs
from orchestrator.core.run.inputs import StillDown
from orchestrator.core.run.machine import starting, step
from orchestrator.core.run.output import Output
from orchestrator.core.run.policy import Grace, Policy
from orchestrator.core.run.state import Link
from orchestrator.errors import CannotRecord, ConnectionLost, NodeBusy
from orchestrator.protocol.events import Event, NodeLost, Planned, StopRequested
from orchestrator.protocol.run import Follow
from orchestrator.remote import node_client
from orchestrator.remote.node_client import SshNodeClient
from tests.engines import FakeErrands, FakeNode, MemoryRecorder, fake_run
from tests.hostile import framed, node_that_says

STARTED = {"event": "torchrun_started", "time": 1.0, "pid": 3}


def nodes_named(*names: str) -> list[FakeNode]:
    return [FakeNode(name) for name in names]


def lost(name: str) -> ConnectionLost:
    return ConnectionLost("reset by peer", host=name)


def test_a_run_whose_nodes_all_end_well() -> None:
    both = nodes_named("a", "b")
    for node in both:
        node.ends()
    heard = MemoryRecorder()
    _, run = fake_run(Policy(), both, heard=heard)
    assert run().exit_code == 0 and heard.kinds[-1] == "run_finished"
    assert [node.asked for node in both] == [["start"], ["start"]]


def test_a_connection_lost_in_the_middle_of_a_start_takes_every_start_back() -> None:
    a, b, c = nodes_named("a", "b", "c")
    a.refuses = lost("a")
    b.refuses = NodeBusy("busy", host="b")
    _, run = fake_run(Policy(), [a, b, c])
    last = run()
    assert last.exit_code is None and {each.host for each in last.refusals} == {"a", "b"}
    # a may have begun before its connection broke; b has not.
    assert a.asked == ["start", "undo True"] and b.asked == ["start"] and c.asked == ["start", "undo False"]


def test_two_failures_at_once_stop_the_rest_once() -> None:
    a, b, c = nodes_named("a", "b", "c")
    a.fails()
    b.fails()
    heard = MemoryRecorder()
    _, run = fake_run(Policy(grace=Grace(30.0, 3.0)), [a, b, c], heard=heard)
    assert run().exit_code == 1
    assert heard.kinds.count("stop_requested") == 1 and heard.kinds.count("rank_failed") == 2
    assert all(node.asked == ["start", "stop 3"] for node in (a, b, c))


def test_a_spare_that_is_lost_too_gives_way_to_the_next() -> None:
    a, b, first, second = nodes_named("a", "b", "first", "second")
    for node in (b, first):
        node.unreachable, node.silent = True, 31.0
        node.script.put(lost(node.name))

    def when(event: Event) -> None:
        if isinstance(event, Planned) and event.attempt == 3:
            a.ends()
            second.ends()

    heard, chores = MemoryRecorder(when=when), FakeErrands({"first": first, "second": second})

    def forget_the_lost_one() -> None:
        if len(chores.prepared) == 2:
            chores.spares.pop("first")

    chores.when_preparing = forget_the_lost_one
    _, run = fake_run(Policy(max_restarts=3), [a, b], chores, heard)
    assert run().exit_code == 0
    assert [event.nodes for event in heard.events if isinstance(event, Planned)] == [
        ("a", "b"),
        ("a", "first"),
        ("a", "second"),
    ]
    assert [event.node for event in heard.events if isinstance(event, NodeLost)] == ["b", "first"]


def test_a_stop_during_a_restart_starts_nothing_more() -> None:
    a, b = nodes_named("a", "b")
    a.fails()
    chores = FakeErrands()
    engine, run = fake_run(Policy(max_restarts=3), [a, b], chores)
    chores.when_preparing = lambda: engine.stop("interrupted", 30.0)
    assert run().exit_code == 1
    assert a.asked.count("start") == b.asked.count("start") == 1 and len(chores.prepared) == 1


def test_a_stop_while_nodes_start_reaches_each_as_soon_as_it_has_begun() -> None:
    a, b = nodes_named("a", "b")
    heard = MemoryRecorder()
    engine, run = fake_run(Policy(), [a, b], heard=heard)
    engine.stop("interrupted", 7.0)
    assert run().exit_code == 130 and a.asked == b.asked == ["start", "stop 7"]


def test_who_is_in_more_of_a_hurry_is_obeyed() -> None:
    heard, (a,) = MemoryRecorder(), nodes_named("a")
    engine, run = fake_run(Policy(), [a], heard=heard)
    for grace in (7.0, 0.0, 5.0):
        engine.stop("interrupted", grace)
    run()
    assert [event.grace for event in heard.events if isinstance(event, StopRequested)] == [7.0, 0.0, 5.0]
    assert a.asked == ["start", "stop 0"]


def test_a_run_is_left_going() -> None:
    a, b = nodes_named("a", "b")
    heard = MemoryRecorder()
    _, run = fake_run(Policy(detach=True), [a, b], heard=heard)
    assert run().left and heard.kinds == ["planned", "detached"]
    assert a.asked == b.asked == ["start"]


def test_no_room_to_record_leaves_the_run_going() -> None:
    class Full(MemoryRecorder):
        def output(self, output: Output) -> None:
            raise CannotRecord("no room")

    a = FakeNode("a", Output("a", 0, 0, "stdout", b"x\n"))
    _, run = fake_run(Policy(), [a], heard=Full())
    with pytest.raises(CannotRecord):
        run()
    assert a.asked == ["start"]


def test_a_slow_reader_holds_output_back_and_no_stop() -> None:
    a = FakeNode("a", *(Output("a", 0, 0, "stdout", b"x\n") for _ in range(1000)))
    most = 0

    class Slow(MemoryRecorder):
        def output(self, output: Output) -> None:
            nonlocal most
            most = max(most, engine._inbox.qsize())
            if not self.outputs:
                engine.stop("interrupted", 1.0)
            super().output(output)

    heard = Slow()
    engine, run = fake_run(Policy(), [a], heard=heard)
    assert run().exit_code == 130 and len(heard.outputs) == 1000
    assert most < 200


@pytest.mark.parametrize(
    ("others", "silent", "given_up"),
    [
        # If the node is alone, or all are silent, this machine's own network is the likelier cause.
        ([], 31.0, False),
        ([], 301.0, True),
        ([Link.DOWN], 31.0, False),
        ([Link.DOWN], 301.0, True),
        ([Link.UP], 31.0, True),
        ([Link.UP], 29.0, False),
        ([Link.ENDED], 31.0, True),
    ],
)
def test_when_a_silent_node_is_given_up(others: list[Link], silent: float, given_up: bool) -> None:
    names = ["a", *(f"b{n}" for n in range(len(others)))]
    state, _ = starting(Policy(node_timeout=30.0), names, 0.0)
    for name in names:
        state, _ = step(state, inputs.Started(name, 1), 0.0)
    for name, link in zip(names[1:], others, strict=True):
        told = {Link.DOWN: inputs.Broke(name, 1, "reset"), Link.ENDED: inputs.Ended(name, 1)}
        if link in told:
            state, _ = step(state, told[link], 0.0)
    state, _ = step(state, inputs.Broke("a", 1, "reset"), 0.0)
    state, done = step(state, StillDown("a", 1, "no route", silent), 0.0)
    recorded = [each.event for each in done if isinstance(each, actions.Record)]
    assert any(isinstance(event, NodeLost) for event in recorded) is given_up


def test_a_paused_reader_is_no_silence_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node is lost after ``node_timeout`` seconds of silence, and while output waits nobody listens to it."""
    now = 1000.0
    monkeypatch.setattr(node_client.time, "monotonic", lambda: now)
    said = framed({"type": "following", "time": 1.0}) + framed({"type": "event", "event": STARTED})
    client = SshNodeClient(node_that_says(said), Follow(run_id="run", attempt=1), 30.0)
    client.follow()

    def wait_an_hour(_: object) -> None:
        nonlocal now
        now += 3600.0

    with pytest.raises(ConnectionLost):
        client.hear(wait_an_hour)
    assert client.silent == node_client.SILENCE
