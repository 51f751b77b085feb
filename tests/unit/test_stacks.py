"""What ranks are doing, in few lines."""

from __future__ import annotations

import pytest

from orchestrator.core.tracing.stacks import doing, groups, spans
from orchestrator.protocol.tracing.stacks import Frame, RankStack, Thread

TORCH = "/v/lib/python3.11/site-packages/torch"
IN_ALL_REDUCE = (
    ("all_reduce", f"{TORCH}/distributed/distributed_c10d.py", 3913),
    ("_exception_logger.<locals>.wrapper", f"{TORCH}/distributed/c10d_logger.py", 83),
    ("step", "/w/train.py", 88),
    ("<module>", "/w/train.py", 120),
)
IN_LOADER = (
    ("Slow.__getitem__", "/w/data.py", 40),
    ("_MapDatasetFetcher.fetch", f"{TORCH}/utils/data/_utils/fetch.py", 54),
    ("_BaseDataLoaderIter.__next__", f"{TORCH}/utils/data/dataloader.py", 725),
    ("<module>", "/w/train.py", 80),
)


def thread(*frames: tuple[str, str, int], name: str = "MainThread") -> Thread:
    return Thread(
        name=name,
        main=name == "MainThread",
        frames=tuple(Frame(name=function, file=file, line=line) for function, file, line in frames),
    )


def rank(number: int, *threads: Thread, error: str | None = None) -> RankStack:
    return RankStack(rank=number, local_rank=0, pid=100 + number, threads=threads, error=error)


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        (IN_ALL_REDUCE, "all_reduce at train.py:88"),
        (IN_LOADER, "Slow.__getitem__ at data.py:40"),
        ((("_fit", "/w/model.py", 3), ("<module>", "/w/train.py", 9)), "_fit at model.py:3"),
        # A wrapper alone is better than nothing; code that is nowhere the user's names its own line.
        ((("f.<locals>.wrapper", f"{TORCH}/x.py", 1), ("<module>", "/w/t.py", 2)), "f.<locals>.wrapper at t.py:2"),
        ((("wait", "/usr/lib/python3.11/threading.py", 324),), "wait at threading.py:324"),
        (
            (
                ("Linear.forward", f"{TORCH}/nn/modules/linear.py", 125),
                ("Module._call_impl", f"{TORCH}/nn/modules/module.py", 1788),
                ("Net.forward", "/w/net.py", 30),
            ),
            "Linear.forward at net.py:30",
        ),
    ],
)
def test_what_a_thread_does_is_told_by_the_users_own_innermost_line(
    frames: tuple[tuple[str, str, int], ...], said: str
) -> None:
    assert doing(thread(*frames)) == said


def test_ranks_that_do_the_same_are_one_line_and_who_is_missing_is_told() -> None:
    helper = thread(("run", "/w/helper.py", 1), name="helper")
    found = {
        "node1": [rank(0, helper, thread(*IN_ALL_REDUCE)), rank(1, thread(*IN_ALL_REDUCE))],
        "node2": [rank(3, thread(*IN_ALL_REDUCE)), rank(2, thread(*IN_LOADER))],
        "node3": [rank(4, error="no right to read it"), rank(6)],
    }
    expected = {number: f"node{number // 2 + 1}" for number in range(8)}
    made = groups(found, expected)
    assert [str(each) for each in made] == [
        "3 ranks (0-1,3): all_reduce at train.py:88",
        "2 ranks (5,7): has no process: it has ended",
        "rank 2 on node2: Slow.__getitem__ at data.py:40",
        "rank 4 on node3: not known: no right to read it",
        "rank 6 on node3: runs no Python code",
    ]
    assert [frame.name for frame in made[0].frames][:2] == ["all_reduce", "_exception_logger.<locals>.wrapper"]


def test_numbers_are_folded() -> None:
    assert spans([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
