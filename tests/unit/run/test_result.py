"""What events add up to: states, failures, exit codes; also listings of runs, replacements and graces."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from orchestrator.core.run.lineup import replacements
from orchestrator.core.run.listing import STATES, ListedRun, NodeRun, whole_runs
from orchestrator.core.run.policy import Grace, grace_of
from orchestrator.core.run.result import (
    Failure,
    MatchedLine,
    NodeResult,
    RunResult,
    exit_code,
    fold,
    nothing_yet,
    signal_name,
)
from orchestrator.protocol import run as wire
from orchestrator.protocol.events import Event
from orchestrator.protocol.run import RunHere
from tests.history import happened

PLANNED = happened(0, "planned", None, {"nodes": ["a", "b"], "attempt": 2})
ENDED = {"exit_code": 0, "signal": None, "stopped": False, "killed": 0}


def finished(time: float, node: str, **fields: Any) -> Event:
    return happened(time, "finished", node, {**ENDED, **fields})


def failed(time: float, node: str, rank: int | None, **fields: Any) -> Event:
    return happened(time, "rank_failed", node, {"rank": rank, "exit_code": 1, "signal": None, **fields})


def worker(node: str, rank: int | None, restart: int = 0) -> Event:
    return happened(3, "worker", node, {"rank": rank, "restart": restart})


def lost(time: float, node: str) -> Event:
    return happened(time, "node_lost", node, {"reason": "silence"})


def stop(reason: str, *, by_user: bool) -> Event:
    return happened(4, "stop_requested", None, {"reason": reason, "by_user": by_user})


RECONNECTING = happened(2, "reconnecting", "a", {"reason": "broken pipe"})
RECONNECTED = happened(3, "reconnected", "a", {})
COLLECTED = happened(
    9, "collected", "a", {"files": 3, "bytes": 9, "left": ["x (too big)"], "lacking": "x (too big)"}
)
NOT_COLLECTED = happened(9, "collect_failed", "a", {"reason": "no room"})


@pytest.mark.parametrize(
    ("events", "part"),
    [
        ([], {}),
        ([happened(5, "torchrun_started", "a", {"pid": 7})], {"began": 5.0}),
        ([worker("a", 0), worker("a", 1)], {"ranks": (0, 1)}),
        ([worker("a", 0), worker("a", None)], {"ranks": (0,)}),
        ([worker("a", 0), worker("a", 1), worker("a", 3, 1)], {"ranks": (3,), "restart": 1}),
        ([worker("a", 3, 2), worker("a", 4, 2), worker("a", 5, 1)], {"ranks": (3, 4, 5), "restart": 2}),
        (
            [finished(8, "a", killed=2, oom_kills=1, alive=["pid 9 (python)"])],
            {
                "state": "ok",
                "exit_code": 0,
                "ended": 8.0,
                "killed": 2,
                "oom_kills": 1,
                "alive": ("pid 9 (python)",),
            },
        ),
        ([finished(8, "a", stopped=True)], {"state": "ok", "exit_code": 0, "ended": 8.0}),
        ([finished(8, "a", exit_code=1, stopped=True)], {"state": "stopped", "exit_code": 1, "ended": 8.0}),
        ([finished(8, "a", exit_code=None, signal=9)], {"state": "failed", "signal": 9, "ended": 8.0}),
        ([lost(6, "a")], {"state": "lost"}),
        ([happened(6, "orphaned", "a", {})], {"state": "failed", "ended": 6.0}),
        ([RECONNECTING], {"state": "reconnecting"}),
        ([RECONNECTING, RECONNECTED], {}),
        ([lost(1, "a"), RECONNECTING], {"state": "lost"}),
        ([lost(1, "a"), RECONNECTED], {"state": "lost"}),
        ([NOT_COLLECTED], {"uncollected": "no room"}),
        (
            [NOT_COLLECTED, COLLECTED],
            {"collected": 3, "left": ("x (too big)",), "lacking": "x (too big)"},
        ),
        ([happened(2, "stopping", "a", {"by": "stop", "grace": 3})], {}),
    ],
)
def test_what_events_say_of_their_node_and_of_no_other(events: list[Event], part: dict[str, Any]) -> None:
    result = fold([PLANNED, *events])
    assert result.nodes == {"a": NodeResult("a", **part), "b": NodeResult("b")}


@pytest.mark.parametrize(
    ("event", "failure", "words"),
    [
        (
            failed(5, "a", 2, message="ValueError: x", full_disks=["/w"]),
            Failure("a", 2, 1, None, "ValueError: x", 5.0, None, ("/w",)),
            "rank 2 on a ended with exit code 1",
        ),
        (
            failed(5, "a", 0, exit_code=None, signal=9),
            Failure("a", 0, None, 9, time=5.0),
            "rank 0 on a was killed by SIGKILL",
        ),
        (
            happened(5, "failed_to_start", "a", {"error": "no python"}),
            Failure("a", None, 127, None, "no python", 5.0),
            "torchrun on a ended with exit code 127",
        ),
        (
            finished(5, "a", exit_code=None, signal=15),
            Failure("a", None, None, 15, None, 5.0),
            "torchrun on a was killed by SIGTERM",
        ),
        (
            finished(5, "a", exit_code=2),
            Failure("a", None, 2, None, None, 5.0),
            "torchrun on a ended with exit code 2",
        ),
        (finished(5, "a"), None, None),
        (finished(5, "a", exit_code=1, stopped=True), None, None),
        (
            lost(5, "a"),
            Failure("a", None, None, None, None, 5.0, "was lost: silence"),
            "a was lost: silence",
        ),
        (
            happened(5, "orphaned", "a", {"rebooted": True}),
            Failure("a", None, None, None, None, 5.0, "was rebooted during the run"),
            "a was rebooted during the run",
        ),
        (
            happened(5, "orphaned", "a", {"rebooted": False}),
            Failure("a", None, None, None, None, 5.0, "lost its supervisor, which was killed"),
            "a lost its supervisor, which was killed",
        ),
        (RECONNECTING, None, None),
    ],
)
def test_which_events_are_failures(event: Event, failure: Failure | None, words: str | None) -> None:
    found = fold([PLANNED, event]).failures
    assert found == (() if failure is None else (failure,))
    assert [each.describe() for each in found] == ([] if words is None else [words])


@pytest.mark.parametrize(
    ("events", "known"),
    [
        # torchrun's exit repeats its rank's failure, but not the failure of another node's rank.
        ([failed(1, "a", 0), finished(2, "a", exit_code=1)], [("a", 0)]),
        ([failed(1, "a", 0), finished(2, "b", exit_code=1)], [("a", 0), ("b", None)]),
        ([failed(1, "a", 0), lost(2, "a")], [("a", 0), ("a", None)]),
        # What fails after a user's stop fails because of it; what failed first stays in the list, and so do others.
        ([stop("Ctrl-C", by_user=True), failed(5, "a", 0)], []),
        ([failed(1, "b", 1), stop("Ctrl-C", by_user=True), failed(5, "a", 0)], [("b", 1), ("a", 0)]),
        ([stop("limit", by_user=False), failed(5, "a", 0)], [("a", 0)]),
        # A restart of the ranks forgives what came before it; the other ranks of one start do not.
        ([failed(1, "a", 0), worker("b", 1, 1)], []),
        ([failed(1, "a", 0), worker("b", 1, 0)], [("a", 0)]),
        ([worker("b", 1, 1), failed(4, "a", 0), worker("b", 2, 1)], [("a", 0)]),
    ],
)
def test_which_failures_count(events: list[Event], known: list[tuple[str, int | None]]) -> None:
    assert [(each.node, each.rank) for each in fold([PLANNED, *events]).failures] == known


def test_the_first_reason_for_a_stop_and_any_stop_by_the_user_are_kept() -> None:
    result = fold(
        [PLANNED, stop("a failed", by_user=False), stop("Ctrl-C", by_user=True), stop("x", by_user=False)]
    )
    assert (result.stop_reason, result.stopped_by_user) == ("a failed", True)
    assert not fold([PLANNED, stop("a failed", by_user=False)]).stopped_by_user


def test_matched_lines_are_kept_in_order_of_arrival() -> None:
    lines = [
        happened(1, "evidence", "b", {"rank": 1, "signature": "oom", "line": "CUDA out of memory"}),
        happened(2, "evidence", "a", {"rank": None, "signature": "port", "line": "EADDRINUSE"}),
    ]
    assert fold([PLANNED, *lines]).evidence == (
        MatchedLine("b", 1, "oom", "CUDA out of memory"),
        MatchedLine("a", None, "port", "EADDRINUSE"),
    )


def test_a_plan_starts_afresh_with_its_nodes_in_order() -> None:
    before = [PLANNED, failed(1, "a", 0), stop("Ctrl-C", by_user=True), lost(5, "b")]
    again = happened(6, "planned", None, {"nodes": ["c", "a"], "attempt": 3, "min_nodes": 1})
    result = fold([*before, again])
    assert result == RunResult(3, {"c": NodeResult("c"), "a": NodeResult("a")}, (), (), None, False, 1)
    assert list(result.nodes) == ["c", "a"]


def test_events_of_the_whole_run_change_no_node() -> None:
    for kind, fields in (("detached", {}), ("run_finished", {"exit_code": 0})):
        assert fold([PLANNED, happened(5, kind, None, fields)]) == fold([PLANNED])


def test_a_node_outside_the_plan_is_taken_in() -> None:
    assert fold([PLANNED, lost(1, "z")]).nodes["z"] == NodeResult("z", state="lost")


def test_who_attaches_to_a_run_finds_lost_nodes_running_again() -> None:
    planned = happened(0, "planned", None, {"nodes": ["a", "b", "c", "d"]})
    before = fold([planned, failed(1, "a", 0), lost(2, "a"), lost(2, "b"), finished(3, "c"), RECONNECTING])
    there = happened(9, "attached", None, {"nodes": ["a", "c", "d", "elsewhere"]})
    after = before.after(there)
    assert {name: node.state for name, node in after.nodes.items()} == {
        "a": "running",
        "b": "lost",
        "c": "ok",
        "d": "running",
    }
    # The loss of a is forgotten, the failure of its rank is not; b is still lost.
    assert [each.describe() for each in after.failures] == [
        "rank 0 on a ended with exit code 1",
        "b was lost: silence",
    ]
    assert replace(after, nodes=before.nodes, failures=before.failures) == before
    waiting = fold([PLANNED, RECONNECTING, happened(9, "attached", None, {"nodes": ["a"]})])
    assert waiting == fold([PLANNED])


def made_of(*states: str, min_nodes: int | None = None) -> RunResult:
    nodes = {name: NodeResult(name, state=state) for name, state in zip("abc", states, strict=False)}
    return RunResult(1, nodes, (), (), None, False, min_nodes)


@pytest.mark.parametrize(
    ("states", "min_nodes", "over", "bearable", "ok"),
    [
        (("ok", "ok"), None, True, False, True),
        (("ok", "running"), None, False, False, False),
        (("ok", "reconnecting"), None, False, False, False),
        (("ok", "failed"), None, True, False, False),
        (("ok", "stopped"), None, True, False, False),
        (("ok", "lost"), None, True, False, False),
        # An elastic run needs min_nodes nodes, the first among them.
        (("ok", "ok", "lost"), 2, True, True, True),
        (("ok", "failed", "lost"), 2, True, False, False),
        (("ok", "failed", "lost"), 1, True, True, True),
        (("lost", "ok", "ok"), 2, True, False, False),
        (("stopped", "ok", "ok"), 2, True, False, False),
        (("running", "lost", "ok"), 2, False, True, False),
        (("reconnecting", "lost", "running"), 2, False, True, False),
    ],
)
def test_when_a_run_is_over_and_when_it_is_well(
    states: tuple[str, ...], min_nodes: int | None, over: bool, bearable: bool, ok: bool
) -> None:
    result = made_of(*states, min_nodes=min_nodes)
    assert (result.over, result.bearable, result.ok) == (over, bearable, ok)
    assert result.lost == tuple(name for name, node in result.nodes.items() if node.state == "lost")


def test_a_run_without_events_has_done_nothing_and_is_not_well() -> None:
    assert fold([]) == nothing_yet() == RunResult(1, {}, (), (), None, False)
    assert not nothing_yet().ok


def test_how_long_a_node_took() -> None:
    began = happened(5, "torchrun_started", "a", {"pid": 7})
    result = fold([PLANNED, began, finished(12.5, "a"), finished(3, "b")])
    assert (result.nodes["a"].duration, result.nodes["b"].duration) == (7.5, None)
    assert fold([PLANNED, began]).nodes["a"].duration is None


@pytest.mark.parametrize(
    ("result", "blamed", "code"),
    [
        (made_of("ok", "ok"), None, 0),
        (replace(made_of("ok"), nodes={"a": NodeResult("a", state="ok", uncollected="no room")}), None, 5),
        (made_of("failed", "ok"), "a", 1),
        (replace(made_of("failed"), nodes={"a": NodeResult("a", state="failed", uncollected="no room")}), "a", 1),
        (made_of("failed", "lost"), "a", 1),
        (made_of("failed", "lost"), "b", 4),
        (made_of("stopped", "stopped"), None, 130),
        (made_of("ok", "lost", min_nodes=1), "b", 0),
    ],
)
def test_the_exit_code(result: RunResult, blamed: str | None, code: int) -> None:
    assert exit_code(result, blamed) == code


def test_signals_have_names_and_unknown_ones_their_number() -> None:
    assert [signal_name(number) for number in (6, 9, 11, 250)] == ["SIGABRT", "SIGKILL", "SIGSEGV", "signal 250"]


# ---- listings


def here(**fields: Any) -> RunHere:
    return RunHere(**{"run_id": "r1", "attempt": 1, "state": "running", "leftovers": 0, **fields})


def test_all_that_a_node_tells_of_its_part_is_listed() -> None:
    told = here(
        attempt=2,
        state="failed",
        workload="t.py",
        owner="u@h",
        node="a",
        nodes=("a", "b"),
        node_rank=1,
        first_rank=4,
        nproc=8,
        min_nodes=1,
        leftovers=3,
        last_line="loss 1.0",
        began=100.0,
        ended=160.0,
        exit_code=1,
    )
    assert NodeRun.from_answer(told, 200.0, "asked") == NodeRun(
        run_id="r1",
        attempt=2,
        state="failed",
        workload="t.py",
        owner="u@h",
        node="a",
        nodes=("a", "b"),
        node_rank=1,
        first_rank=4,
        nproc=8,
        leftovers=3,
        age=100.0,
        duration=60.0,
        exit_code=1,
        last_line="loss 1.0",
        min_nodes=1,
    )


def test_what_a_node_no_longer_knows_of_its_part() -> None:
    found = NodeRun.from_answer(here(), 200.0, "asked")
    assert (found.workload, found.owner, found.node, found.nodes) == ("?", "?", "asked", ("asked",))
    assert (found.nproc, found.age, found.duration) == (0, None, None)
    assert NodeRun.from_answer(here(began=100.0), 200.0, "asked").duration is None
    assert NodeRun.from_answer(here(ended=100.0), 200.0, "asked").duration is None


def part(node: str, **fields: Any) -> NodeRun:
    told = here(
        **{"node": node, "nodes": ("a", "b", "c"), "nproc": 2, "workload": "t.py", "owner": "u@h", **fields}
    )
    return NodeRun.from_answer(told, 200.0, node)


def test_a_run_is_described_by_its_newest_attempt_in_node_rank_order() -> None:
    found = whole_runs(
        [
            part(
                "b", attempt=2, node_rank=1, workload="b.py", owner="b", began=90.0, ended=190.0, last_line="of b"
            ),
            part("c", attempt=1, node_rank=0, nproc=16, leftovers=4, began=10.0, ended=199.0, last_line="old"),
            part("a", attempt=2, node_rank=0, leftovers=1, began=100.0, ended=150.0, last_line=None),
        ]
    )
    assert found == (
        ListedRun(
            run_id="r1",
            attempt=2,
            state="running",
            workload="t.py",
            owner="u@h",
            nodes=("a", "b"),
            missing=("c",),
            ranks=4,
            leftovers=5,
            age=110.0,
            duration=100.0,
            last_line="of b",
        ),
    )


def test_a_node_of_unknown_rank_comes_first_and_times_may_be_unknown() -> None:
    (found,) = whole_runs([part("b", node_rank=1), part("a", node_rank=None)])
    assert (found.nodes, found.missing) == (("a", "b"), ("c",))
    assert (found.age, found.duration, found.last_line) == (None, None, None)


def test_runs_are_listed_oldest_first_each_with_its_own_parts() -> None:
    found = whole_runs([part("a", run_id="r2"), part("a", run_id="r1"), part("b", run_id="r2", node_rank=1)])
    assert [(run.run_id, run.nodes) for run in found] == [("r1", ("a",)), ("r2", ("a", "b"))]


def test_a_run_is_listed_with_the_worst_state_of_its_nodes() -> None:
    assert set(STATES) == set(wire.STATES)
    for worse, better in pairwise(STATES):
        (found,) = whole_runs([part("a", node_rank=0, state=better), part("b", node_rank=1, state=worse)])
        assert found.state == worse
    # An older attempt counts only while it has left processes.
    for leftovers, state in ((0, "ok"), (2, "left over")):
        older = part("a", attempt=1, state="left over", leftovers=leftovers)
        (found,) = whole_runs([older, part("b", attempt=2, state="ok")])
        assert found.state == state


# ---- lineups and policies


@pytest.mark.parametrize(
    ("everyone", "spares", "before", "lost", "given_up", "found"),
    [
        # Spares, then hosts that the run did not use, then the lost node itself.
        ("abcd", "d", "ab", "b", "", "dcb"),
        ("abcde", "ed", "ab", "b", "", "edcb"),
        # A spare that the attempt used is no spare any more, and it comes last once it is lost.
        ("abcd", "cd", "ac", "c", "", "dbc"),
        ("abcd", "cd", "ac", "a", "", "dba"),
        ("abcd", "d", "ab", "b", "db", "c"),
        ("ab", "", "ab", "a", "", "a"),
        ("ab", "", "ab", "", "", ""),
    ],
)
def test_who_may_take_the_place_of_a_lost_node(
    everyone: str, spares: str, before: str, lost: str, given_up: str, found: str
) -> None:
    assert replacements(everyone, spares, before, lost, given_up) == list(found)


@pytest.mark.parametrize(
    ("inventorys", "asked", "grace"),
    [
        (None, None, Grace(30.0, 3.0)),
        (60.0, None, Grace(60.0, 60.0)),
        (60.0, 5.0, Grace(5.0, 5.0)),
        (None, 5.0, Grace(5.0, 5.0)),
        (60.0, 0.0, Grace(0.0, 0.0)),
        (0.0, None, Grace(0.0, 0.0)),
    ],
)
def test_the_grace_asked_for_goes_before_that_of_the_inventory(
    inventorys: float | None, asked: float | None, grace: Grace
) -> None:
    assert grace_of(inventorys, asked) == grace
