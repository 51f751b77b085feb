"""Stragglers: which rank or link is named, why, and that none is where all do the same."""

from __future__ import annotations

import signal
import socket
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.run.output import NodeSample
from orchestrator.core.tracing.stragglers import (
    LOOKS,
    GpuSeen,
    Link,
    Seen,
    Stragglers,
    slow_gpus,
    slow_links,
    slow_ranks,
)
from orchestrator.node.tracing import sockets
from orchestrator.node.tracing.pace import Pace, states
from orchestrator.protocol.events import Straggler
from orchestrator.protocol.run import GpuPace, LinkPace, RankPace
from tests.unit.test_hangs import Ranks, ranks
from tests.waiting import until

__all__ = ["ranks"]


def seen(rank: int, works: float, node: str = "", **about: float) -> Seen:
    nothing = {"stopped": 0.0, "disk": 0.0, "queued": 0.0, "throttled": 0.0, "faults": 0.0}
    return Seen(node=node or f"n{rank}", rank=rank, works=works, **{**nothing, **about})


def told(*all_seen: Seen) -> list[str]:
    return [f"{event.what} → {event.remedy}" for event in slow_ranks(all_seen).values()]


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({"stopped": 0.6, "queued": 0.5}, "it is stopped 60% of the time → something there sends it SIGSTOP"),
        ({"throttled": 0.7, "queued": 0.5}, "its control group gets no processor 70% of the time → raise cpu.max"),
        ({"faults": 90.0}, "it waits for 90 pages of memory a second from the disk → the host swaps"),
        ({"queued": 0.4}, "other processes have the cores 40% of the time → orch exec --nodes n2 -- top -bn1"),
        ({"disk": 0.5}, "it waits for the disk 50% of the time → read from a faster disk"),
        ({}, "its host is slower, or it has more to do → orch doctor compares the hosts"),
    ],
)
def test_a_slow_rank_and_why(about: dict[str, float], expected: str) -> None:
    (line,) = told(seen(0, 0.2, queued=0.1, faults=1.0), seen(1, 0.3, queued=0.1), seen(2, 0.97, **about))
    assert line.startswith("rank 2 on n2 holds the others up (busy 97% of the time, the others 20% to 30%): ")
    assert expected in line


def test_a_busy_host_is_the_reason_only_if_the_others_are_not_as_busy() -> None:
    (line,) = told(seen(0, 0.2, queued=0.3), seen(1, 0.3, queued=0.3), seen(2, 0.97, queued=0.4))
    assert "its host is slower, or it has more to do" in line


def test_a_slow_host_is_named_with_its_ranks() -> None:
    (line,) = told(*(seen(rank, 0.9 if rank > 5 else 0.3, f"n{rank // 2}") for rank in range(8)))
    assert line.startswith("ranks 6-7 on n3 hold the others up (busy 90% of the time, the others 30%): ")


@pytest.mark.parametrize(
    "works", [(0.99, 0.2), (0.7, 0.2, 0.2), (0.9, 0.9, 0.3), (0.9, 0.6, 0.3), (0.99, 0.7, 0.7)]
)
def test_nobody_is_named_without_a_clear_difference(works: Sequence[float]) -> None:
    named = slow_ranks([seen(rank, share) for rank, share in enumerate(works)])
    assert bool(named) == (works == (0.99, 0.2))


@given(st.floats(0, 0.66), st.lists(st.floats(0, 0.34), min_size=2, max_size=64))
def test_nobody_is_named_where_all_do_about_the_same(base: float, more: list[float]) -> None:
    assert not slow_ranks([seen(rank, base + part) for rank, part in enumerate(more)])


def pace(rank: int, works: float, looks: int, **changed: Any) -> RankPace:
    return RankPace(
        rank=rank,
        pid=changed.get("pid", 100 + rank),
        looks=looks,
        runs=int(works * looks),
        stopped=0,
        disk=0,
        queued=0.0,
        throttled=0.0,
        faults=0,
    )


def samples(window: int, works: Sequence[float], **changed: Any) -> list[NodeSample]:
    """Return a sample of each node, of one rank each, at the end of a window."""
    looks, moment = window * LOOKS, 15.0 * window
    return [
        NodeSample(f"n{rank}", 0.5, 0, 0, (), moment, (pace(rank, share, looks, **changed),), ())
        for rank, share in enumerate(works)
    ]


def fed(stragglers: Stragglers, found: Sequence[NodeSample]) -> list[Straggler]:
    return [event for sample in found for event in stragglers.after(sample)]


def test_two_windows_must_agree_and_a_straggler_is_told_once() -> None:
    stragglers = Stragglers(["n0", "n1", "n2"])
    assert [len(fed(stragglers, samples(window, (0.3, 0.3, 0.98)))) for window in range(6)] == [0, 0, 1, 0, 0, 0]


def test_ranks_that_were_started_again_are_looked_at_anew() -> None:
    stragglers = Stragglers(["n0", "n1", "n2"])
    for window in range(2):
        assert not fed(stragglers, samples(window, (0.3, 0.3, 0.98)))
    assert not fed(stragglers, samples(2, (0.3, 0.3, 0.98), pid=7))
    assert not fed(stragglers, samples(3, (0.3, 0.3, 0.98), pid=7))
    assert len(fed(stragglers, samples(4, (0.3, 0.3, 0.98), pid=7))) == 1


def test_nothing_is_told_while_a_node_is_silent_or_has_no_ranks() -> None:
    stragglers = Stragglers(["n0", "n1", "n2", "n3"])
    for window in range(4):
        assert not fed(stragglers, samples(window, (0.3, 0.3, 0.98)))
        assert not stragglers.after(NodeSample("n3", 0.5, 0, 0, (), 15.0 * window))


def gpu(number: int, busy: float = 0.98, clock: float = 1980.0, hot: float = 0.0, limited: float = 0.0) -> GpuSeen:
    return GpuSeen(f"n{number // 2}", number % 2, busy, clock, hot, limited, 88.0)


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        (
            [gpu(0), gpu(1), gpu(2), gpu(3, clock=1100.0, hot=0.9)],
            [
                "GPU 1 of n1 holds the others up: it runs at 1100 MHz, the others at 1980 MHz, because it is too hot (88 °C)"
            ],
        ),
        (
            [gpu(0), gpu(1), gpu(2, clock=1400.0, limited=1.0), gpu(3)],
            [
                "GPU 0 of n1 holds the others up: it runs at 1400 MHz, the others at 1980 MHz, because its power is limited"
            ],
        ),
        (
            [gpu(0), gpu(1, busy=1.0), gpu(2, busy=0.4), gpu(3)],
            [
                "GPU 0 of n1 is busy 40% of the time, the others 98% to 100%: it waits for its own rank, and the others wait for it"
            ],
        ),
        # All are limited, one is not the run's, one is a little slower, one alone, all wait for their ranks.
        ([gpu(number, clock=1400.0, limited=1.0) for number in range(4)], []),
        ([gpu(0), gpu(1), gpu(2), gpu(3, busy=0.0, clock=345.0)], []),
        ([gpu(0), gpu(1), gpu(2), gpu(3, clock=1700.0, hot=1.0)], []),
        ([gpu(0, clock=900.0, hot=1.0)], []),
        ([gpu(0, busy=0.3), gpu(1, busy=0.7)], []),
        # As nvidia-smi without clocks tells.
        ([gpu(0, clock=0.0), gpu(1, clock=0.0)], []),
    ],
)
def test_slow_gpus(gpus: list[GpuSeen], expected: list[str]) -> None:
    assert [event.what for event in slow_gpus(gpus).values()] == expected


def test_gpus_are_named_after_two_windows_with_enough_looks() -> None:
    stragglers = Stragglers(["n0", "n1"])
    events = []
    for window in range(5):
        for number, sample in enumerate(samples(window, (1.0, 1.0))):
            looks = 7 * window
            pace = GpuPace(
                gpu=0, looks=looks, busy=(0.99 - 0.6 * number) * looks, clock=1980.0 * looks, hot=0, limited=0
            )
            events += stragglers.after(
                NodeSample(sample.node, 0.5, 0, 0, (), sample.time, sample.ranks, (), (pace,))
            )
    # A window has eight looks or more, so each takes two of these.
    assert [event.node for event in events] == ["n1"]
    assert events[0].what.startswith("GPU 0 of n1 is busy 39% of the time, the others 99%")


MBIT = 1e6 / 8


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        # As measured with node2 at 10 Mbit/s: gloo's ring sends from 3 to 2 to 1 to 3.
        (
            [
                Link("n1", "n3", 0.01, 6000 * MBIT),
                Link("n2", "n1", 0.92, 8.2 * MBIT),
                Link("n3", "n2", 0.93, 8 * MBIT),
            ],
            [
                "the link of n2 holds the run up: it is busy 93% of the time (8 Mbit/s from n3 to n2, 6 Gbit/s between others)"
            ],
        ),
        (
            [
                Link("n1", "n3", 0.1, 900 * MBIT),
                Link("n2", "n1", 0.1, 800 * MBIT),
                Link("n3", "n2", 0.8, 90 * MBIT),
            ],
            [
                "the link between n3 and n2 holds the run up: it is busy 80% of the time (90 Mbit/s from n3 to n2, 850 Mbit/s between others)"
            ],
        ),
        ([Link("n1", "n2", 0.9, 90 * MBIT), Link("n2", "n1", 0.9, 90 * MBIT)], []),
        (
            [
                Link("n1", "n2", 0.9, 400 * MBIT),
                Link("n2", "n3", 0.9, 900 * MBIT),
                Link("n3", "n1", 0.9, 900 * MBIT),
            ],
            [],
        ),
        (
            [
                Link("n1", "n2", 0.2, 9 * MBIT),
                Link("n2", "n3", 0.1, 900 * MBIT),
                Link("n3", "n1", 0.1, 900 * MBIT),
            ],
            [],
        ),
    ],
)
def test_slow_links(links: list[Link], expected: list[str]) -> None:
    assert [event.what for event in slow_links(links).values()] == expected


def test_links_are_those_between_nodes_that_sent_enough() -> None:
    stragglers = Stragglers(["n0", "n1", "n2"])
    events = []
    for window in range(4):
        for number, sample in enumerate(samples(window, (0.2, 0.2, 0.2))):
            following = (number + 1) % 3
            sent, busy = 20_000_000 * window, (14.0 if number == 1 else 0.1) * window
            links = (
                LinkPace(local=f"10.0.0.{number}", remote=f"10.0.0.{following}", busy=busy, sent=sent),
                LinkPace(local=f"10.0.0.{number}", remote="192.168.0.9", busy=busy, sent=sent),
                LinkPace(
                    local=f"10.0.0.{number}",
                    remote=f"10.0.0.{(number + 2) % 3}",
                    busy=14.0 * window,
                    sent=900 * window,
                ),
            )
            events += stragglers.after(NodeSample(sample.node, 0.5, 0, 0, (), sample.time, sample.ranks, links))
    assert [event.what for event in events] == [
        "the link between n1 and n2 holds the run up: it is busy 93% of the time (11.4 Mbit/s from n1 to n2, 1.6 "
        "Gbit/s between others)"
    ]


def test_what_processes_are_seen_doing(ranks: Ranks) -> None:
    paces = Pace(ranks)  # type: ignore[arg-type]
    paces.interval = 0.0
    busy, sleeps = ranks.start("while True: pass"), ranks.start("import time; time.sleep(600)")
    parent = ranks.start("import os, sys\nif not os.fork():\n    while os.getppid() != 1: pass\nsys.stdin.read()")
    stopped = ranks.start("while True: pass")
    stopped.send_signal(signal.SIGSTOP)
    until(lambda: states(stopped.pid) == "T", 10)

    def looks() -> bool:
        paces.interval = 0.0
        paces.tick()
        return all(each.looks >= 60 for each in paces.told())

    until(looks, 30)
    shares = {each.pid: (each.runs / each.looks, each.stopped / each.looks) for each in paces.told()}
    assert shares[busy.pid][0] > 0.9 and shares[sleeps.pid][0] < 0.2
    assert shares[parent.pid][0] > 0.5, "its child computes"
    assert shares[stopped.pid][1] > 0.9
    assert all(each.queued >= 0 and each.throttled >= 0 and each.faults >= 0 for each in paces.told())
    sleeps.kill()
    sleeps.wait()
    paces.tick()
    assert next(each.looks for each in paces.told() if each.pid == sleeps.pid) >= 60


def test_the_kernel_tells_of_connections_but_loopback_is_none_of_ours() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        messages = list(sockets.answers(socket.AF_INET))
        ports = {int.from_bytes(message[4:6], "big") for message in messages}
        assert client.getsockname()[1] in ports
        assert all(len(sockets.attribute(message, sockets.INET_DIAG_INFO)) >= 104 for message in messages)
        assert not [link for link in sockets.links() if link.local.startswith("127.")]
