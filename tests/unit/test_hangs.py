"""When ranks count as making no progress, and whom the others wait for."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.core.run import actions, inputs
from orchestrator.core.run.machine import starting, step
from orchestrator.core.run.policy import Policy
from orchestrator.core.run.result import nothing_yet
from orchestrator.core.run.state import RunState
from orchestrator.core.tracing.stacks import groups
from orchestrator.core.tracing.waiting import Wait, waits
from orchestrator.local.run_folder import RunFolder
from orchestrator.node.tracing.gpus import BASIC, Gpus
from orchestrator.node.tracing.stillness import Stillness
from orchestrator.operations.tracing.hangs import hang
from orchestrator.operations.tracing.stacks import ON_A_NODE
from orchestrator.protocol import events
from orchestrator.protocol.events import Event, Still
from orchestrator.protocol.tracing.stacks import RankStack
from tests.unit.test_stacks import IN_ALL_REDUCE, IN_LOADER, TORCH, rank, thread
from tests.waiting import until

IN_BROADCAST = (("broadcast", f"{TORCH}/distributed/distributed_c10d.py", 2825), ("step", "/w/train.py", 91))
IN_BACKWARD = (
    ("_engine_run_backward", f"{TORCH}/autograd/graph.py", 865),
    ("backward", f"{TORCH}/autograd/__init__.py", 350),
    ("step", "/w/train.py", 60),
)
EXPECTED = {number: f"node{number + 1}" for number in range(3)}


def told(stacks: Sequence[RankStack], still: Sequence[int] = (0, 1, 2)) -> Wait:
    found = {f"node{stack.rank + 1}": [stack] for stack in stacks}
    return waits(groups(found, EXPECTED), still, 600.0)


def test_the_rank_that_the_others_wait_for_is_named() -> None:
    # Two ranks in their loaders: it is the larger group that is to blame.
    loader = told([rank(0, thread(*IN_ALL_REDUCE)), rank(1, thread(*IN_LOADER)), rank(2, thread(*IN_ALL_REDUCE))])
    assert loader == Wait(
        "no progress for 10 min: 2 ranks (0,2): all_reduce at train.py:88; rank 1 on node2: "
        "Slow.__getitem__ at data.py:40 → the others wait for rank 1 on node2",
        "look at what rank 1 does there; orch stacks --full shows where each rank is",
        1,
        "node2",
    )
    two = told([rank(0, thread(*IN_BACKWARD)), rank(1, thread(*IN_LOADER)), rank(2, thread(*IN_LOADER))])
    assert two.what.endswith(" → the other waits for ranks 1-2") and two.rank == 1


def test_a_rank_that_left_one_in_another_collective_and_one_that_is_unknown() -> None:
    left = told([rank(0, thread(*IN_ALL_REDUCE)), rank(1, thread(*IN_ALL_REDUCE))], still=(0, 1))
    assert (left.rank, left.node) == (2, "node3")
    assert "rank 2 on node3: has no process: it has ended → the others wait for rank 2" in left.what
    assert left.remedy == "all ranks must make the same number of steps: give them equally many batches"
    other = told(
        [rank(0, thread(*IN_ALL_REDUCE)), rank(1, thread(*IN_BROADCAST)), rank(2, thread(*IN_ALL_REDUCE))]
    )
    assert other.rank == 1 and other.remedy.startswith("the ranks are in different collectives")
    unread = told([rank(0, thread(*IN_ALL_REDUCE)), rank(1, error="no right"), rank(2, thread(*IN_ALL_REDUCE))])
    assert unread.rank is None and "rank 1 on node2: not known: no right" in unread.what
    same = told([rank(number, thread(*IN_ALL_REDUCE)) for number in range(3)])
    assert same.rank is None and "orch doctor" in same.remedy


def test_a_rank_that_computes_while_the_others_wait_is_named() -> None:
    busy = told(
        [rank(0, thread(*IN_ALL_REDUCE)), rank(1, thread(*IN_ALL_REDUCE)), rank(2, thread(*IN_LOADER))],
        still=(0, 1),
    )
    assert busy.what.startswith("ranks 0-1 made no progress for 10 min, rank 2 did: ")
    assert busy.what.endswith(" → the others wait for rank 2 on node3")


def test_many_groups_are_cut_short_but_the_last_is_kept() -> None:
    stacks = [rank(number, thread(("work", f"/w/part{number}.py", number))) for number in range(9)]
    found = {"node1": stacks}
    said = waits(groups(found, dict.fromkeys(range(9), "node1")), range(9), 60.0)
    assert said.what.count("rank ") == 4 and "part8.py" in said.what and said.what.endswith("; and 5 more")
    assert said.rank is None


class Asked:
    """The state machine of two nodes with two ranks each, and what it did."""

    def __init__(self, policy: Policy) -> None:
        self.now = 0.0
        self.done: list[actions.Action] = []
        self.state: RunState
        self.state, _ = starting(policy, ["node1", "node2"], self.now)
        for name in ("node1", "node2"):
            self.tell(inputs.Started(name, 1))

    def tell(self, told: inputs.Input) -> None:
        self.state, did = step(self.state, told, self.now)
        self.done += did

    def still(self, node: str, *numbers: int, among: int = 2) -> None:
        event = Still(time=self.now, node=node, ranks=numbers, among=among, after=8.0)
        self.tell(inputs.Happened(node, 1, event))

    def looked(self, everyone: bool) -> None:
        found = events.Hang(time=1.0, node="node2", rank=3, what="it hangs", remedy="look", everyone=everyone)
        self.tell(inputs.Looked(1, found))

    def took(self, kind: type) -> list[actions.Action]:
        """Return the actions of a kind since the last time."""
        found = [action for action in self.done if isinstance(action, kind)]
        self.done = [action for action in self.done if not isinstance(action, kind)]
        return found

    def hangs(self) -> list[Event]:
        return [each.event for each in self.took(actions.Record) if isinstance(each.event, events.Hang)]


def test_ranks_are_looked_at_once_for_each_time_they_hang() -> None:
    run = Asked(Policy())
    run.still("node1", 0, 1)
    # The others may follow at once.
    (wait,) = run.took(actions.Wait)
    assert wait == actions.Wait(actions.Timer(actions.Deadline.HANG, 1), 2.0)
    run.still("node2", 2, 3)
    assert run.took(actions.Look) == [actions.Look(1, ("node1", "node2"), frozenset(range(4)), 8.0, True)]
    run.tell(inputs.Due(wait.timer))
    run.still("node2", 3)
    run.looked(everyone=True)
    assert not run.took(actions.Look) and not run.hangs(), "a rank moved meanwhile"
    run.still("node2")
    run.still("node1")
    run.still("node1", 0, 1)
    run.still("node2", 2, 3)
    assert len(run.took(actions.Look)) == 1
    run.looked(everyone=True)
    assert len(run.hangs()) == 1 and not run.took(actions.StopNode)
    run.still("node2", 3)
    run.still("node2", 2, 3)
    assert len(run.took(actions.Look)) == 1, "they moved and hang again"


def test_ranks_that_wait_for_a_busy_one_are_reported_and_not_ended() -> None:
    run = Asked(Policy(on_hang="stop"))
    run.still("node1", 0, 1)
    run.still("node2", 2)
    (wait,) = run.took(actions.Wait)
    run.tell(inputs.Due(wait.timer))
    (look,) = run.took(actions.Look)
    assert not look.everyone and look.still == {0, 1, 2}
    run.looked(everyone=False)
    assert len(run.hangs()) == 1 and not run.took(actions.StopNode)
    run.still("node2", 2, 3)
    (look,) = run.took(actions.Look)
    assert look.everyone
    run.looked(everyone=True)
    (hang,) = run.hangs()
    assert hang.ends and len(run.took(actions.StopNode)) == 2 and run.state.stopped


@pytest.mark.parametrize(("restarts", "another"), [(0, False), (1, True)])
def test_a_hang_that_is_to_be_ended_is_a_failure(restarts: int, another: bool) -> None:
    run = Asked(Policy(on_hang="restart", max_restarts=restarts))
    run.still("node1", 0, 1)
    run.still("node2", 2, 3)
    run.looked(everyone=True)
    (failure,) = run.state.result.failures
    assert (failure.describe(), failure.message, failure.hung) == ("the run hangs", "it hangs", "look")
    for name in ("node1", "node2"):
        ended = events.Finished(time=2.0, node=name, exit_code=1, signal=None, stopped=True, killed=0)
        run.tell(inputs.Happened(name, 1, ended))
        run.tell(inputs.Ended(name, 1))
    run.tell(inputs.CollectionDone(1))
    run.tell(inputs.Explained(1, None))
    assert bool(run.took(actions.Prepare)) is another


def test_a_node_whose_part_has_ended_is_not_waited_for() -> None:
    run = Asked(Policy())
    run.still("node1", 0, 1)
    ended = events.Finished(time=2.0, node="node2", exit_code=0, signal=None, stopped=False, killed=0)
    run.tell(inputs.Happened("node2", 1, ended))
    assert len(run.took(actions.Look)) == 1


def test_the_share_of_time_that_a_gpu_touches_its_memory_is_read_where_it_is_told() -> None:
    both = ((1.0, 10 << 20, 81559 << 20), (0.5, 3 << 20, 100 << 20))
    gpus = Gpus()
    gpus.take("100, 10, 81559, 0\n50, 3, 100, [N/A]\nNo devices\n", 0)
    assert (gpus.loads, gpus.touching) == (both, (0.0, None))
    gpus.take("100, 10, 81559\n", 0)
    assert (gpus.loads, gpus.touching) == (both[:1], (None,))


def test_a_gpu_that_waits_for_another_spins_and_does_not_work() -> None:
    gpus = Gpus()
    assert not gpus.work() and not gpus.spin()
    for text, works, spins in (
        ("100, 1, 9, 0", False, True),
        ("100, 1, 9, 40", True, False),
        ("3, 1, 9, 0", False, False),
    ):
        gpus.take(text, 0)
        assert (gpus.work(), gpus.spin()) == (works, spins)


def test_what_a_driver_does_not_know_is_not_asked_again() -> None:
    gpus = Gpus()
    gpus.take('Field "clocks_throttle_reasons.active" is not a valid field to query.\n', 2)
    assert gpus.fields == BASIC and not gpus.loads


def test_what_slows_a_gpu_down_is_added_up() -> None:
    gpus = Gpus()
    # As an H100 tells it: idle, working, and, made up, too hot and at its power limit.
    for text in (
        "0, 4, 81559, 0, 345, 0x0000000000000001, 27, 71.20",
        "100, 4096, 81559, 43, 1980, 0x0000000000000000, 41, 612.35",
        "100, 4096, 81559, 43, 1100, 0x0000000000000060, 88, 401.00",
        "90, 4096, 81559, 43, [N/A], 0x0000000000000004, 60, [N/A]",
    ):
        gpus.take(text, 0)
    (pace,) = gpus.paces.values()
    assert (pace.looks, pace.busy, pace.clock, pace.hot, pace.limited) == (4, 2.9, 3425.0, 1, 1)
    assert (pace.celsius, pace.watts) == (60.0, None)


@dataclass
class Ranks:
    """The workers of a node: Python processes that wait, and their output."""

    folder: Path
    by_local_rank: dict[int, tuple[int | None, int | None, str]] = field(default_factory=dict)
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, script: str) -> subprocess.Popen[str]:
        number = len(self.processes)
        with (self.folder / f"{number}.out").open("w") as out:
            words = [sys.executable, "-u", "-c", script]
            process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=out, text=True)
        self.processes.append(process)
        self.by_local_rank[number] = (number + 4, process.pid, "")
        return process

    def sizes(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in self.folder.glob("*.out")}


@pytest.fixture
def ranks(tmp_path: Path) -> Iterator[Ranks]:
    made = Ranks(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.communicate()


ECHO = "import sys\nfor line in sys.stdin: print(line)"
# The same with a child that computes, as a data loader does.
CHILD = "import os, sys\nif not os.fork():\n    while os.getppid() != 1: pass\nsys.stdin.read()"


def test_ranks_are_still_that_neither_print_nor_compute(ranks: Ranks) -> None:
    recorded: list[Event] = []
    watch = Stillness(0.6, ranks, Gpus(), recorded.append)  # type: ignore[arg-type]
    watch.every = 0.1
    quiet, waits_for_child = ranks.start(ECHO), ranks.start(CHILD)

    def told() -> tuple[int, ...] | None:
        watch.tick()
        last = recorded[-1] if recorded else None
        assert last is None or isinstance(last, Still)
        return None if last is None else last.ranks

    until(lambda: told() == (4,), 20)
    assert isinstance(recorded[-1], Still) and (recorded[-1].among, recorded[-1].after) == (2, 0.6)
    assert quiet.stdin is not None
    print("a line", file=quiet.stdin, flush=True)
    until(lambda: told() == (), 20)
    until(lambda: told() == (4,), 20)
    assert len(recorded) == 3, "told only when it changes"
    waits_for_child.kill()
    waits_for_child.wait()
    until(lambda: told() == (4,) and recorded[-1].among == 1, 20)  # type: ignore[attr-defined]


def test_a_gpu_that_works_moves_all_ranks_and_one_that_spins_none(ranks: Ranks) -> None:
    recorded: list[Event] = []
    gpus = Gpus()
    watch = Stillness(0.5, ranks, gpus, recorded.append)  # type: ignore[arg-type]
    watch.every = 0.1
    ranks.start(ECHO)
    ranks.start("while True: pass")
    gpus.take("100, 1, 9, 30", 0)
    began = time.monotonic()

    def told() -> list[Event]:
        watch.tick()
        return recorded

    until(lambda: told() or time.monotonic() - began > 1.2, 20)
    assert not recorded
    # A rank that waits in a collective of NCCL keeps a core busy.
    gpus.take("100, 1, 9, 0", 0)
    until(lambda: bool(told()) and recorded[-1].ranks == (4, 5), 20)  # type: ignore[attr-defined]


def test_a_hang_without_stacks_says_why(tmp_path: Path) -> None:
    look = actions.Look(1, ("node1",), frozenset({1}), 60.0, False)
    with closing(RunFolder.open(tmp_path, "20260101-000000-abcd")) as folder:
        found = hang(None, {}, folder, look, nothing_yet())
    assert (
        found.what
        == "rank 1 made no progress for 60 s (without stacks: the nodes of a job are not asked for stacks)"
    )
    assert (found.remedy, found.file, found.everyone) == (ON_A_NODE, None, False)
