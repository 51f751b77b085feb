"""Who holds the others up, on three hosts: a rank that gets little of its core, and a slow link."""

from __future__ import annotations

import os
import re
import signal
import threading
import time

import pytest

from tests.conftest import Orch
from tests.namespaces import Cluster
from tests.waiting import heard, rest

pytestmark = [pytest.mark.cluster, pytest.mark.torch]

STEPS = """
import sys, time, torch, torch.distributed as dist
def main(work, size):
    dist.init_process_group("gloo")
    data = torch.ones(size)
    print("up", flush=True)
    while True:
        end = time.process_time() + work
        while time.process_time() < end:
            pass
        dist.all_reduce(data)
main(float(sys.argv[1]), int(sys.argv[2]))
"""


def limited(pid: int, over: threading.Event) -> None:
    """Let a process run for a tenth of the time, as cpulimit does."""
    while not over.is_set():
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.09)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.01)


def test_a_slow_link_and_a_rank_with_little_of_its_core_are_named(orch: Orch, cluster: Cluster) -> None:
    (orch.folder / "steps.py").write_text(STEPS)
    process = orch.popen("run", "steps.py", "0.02", "200000")
    for _ in range(3):
        heard(process, "up")
    (worker,) = (event for event in orch.events("worker") if event["rank"] == 2)
    (pid,) = (each.pid_outside for each in cluster.hosts[2].processes() if each.pid_inside == worker["pid"])
    cluster.hosts[1].slow(10)
    try:
        link = heard(process, " holds the run up").splitlines()[-1]
    finally:
        cluster.hosts[1].unslow()
    over = threading.Event()
    limit = threading.Thread(target=limited, args=(pid, over))
    limit.start()
    try:
        rank = heard(process, " holds the others up").splitlines()[-1]
    finally:
        over.set()
        limit.join()
    process.send_signal(signal.SIGINT)
    rest(process)
    assert re.match(
        r"the link of node2 holds the run up: it is busy \d+% of the time \(\S+ Mbit/s from node\d to node\d, "
        r"\S+ .bit/s between others\) → orch doctor measures the links between all hosts$",
        link,
    ), link
    assert re.match(
        r"rank 2 on node3 holds the others up \(busy \d+% of the time, the others \d+%.*\): it is stopped \d+% of "
        r"the time → something there sends it SIGSTOP, such as cpulimit or a debugger: orch exec --nodes node3 -- ",
        rank,
    ), rank
    told = orch.events("straggler")
    assert [(event["node"], event["ranks"]) for event in told] == [("node2", []), ("node3", [2])]
    assert link in orch("runs", "show", "@last").stdout
