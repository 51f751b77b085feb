"""The stacks of ranks on three hosts: who waits, and for whom."""

from __future__ import annotations

import json
import signal

import pytest

from tests.conftest import Orch
from tests.waiting import heard, rest

pytestmark = [pytest.mark.cluster, pytest.mark.torch]

# Rank 2 sleeps in its data loader, and the others wait for it.
LOADS = """
import time, torch, torch.distributed as dist
from torch.utils.data import DataLoader, Dataset
class Slow(Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, index):
        if index == 1:
            print("up", flush=True)
            if dist.get_rank() == 2:
                time.sleep(600)
        return torch.ones(2)
def main():
    dist.init_process_group("gloo")
    for batch in DataLoader(Slow(), batch_size=1):
        dist.all_reduce(batch)
main()
"""
# Rank 1 leaves, rank 0 computes in a thread of its own, rank 2 sleeps.
LEAVES = """
import os, sys, threading, time
def reading():
    time.sleep(600)
def waiting():
    print("up", flush=True)
    time.sleep(600)
if os.environ["RANK"] == "1":
    print("up", flush=True)
    sys.exit(0)
threading.Thread(target=reading, name="reader", daemon=True).start()
waiting()
"""


def test_the_rank_that_the_others_wait_for_is_named(orch: Orch) -> None:
    (orch.folder / "loads.py").write_text(LOADS)
    process = orch.popen("run", "--hang-timeout", "5s", "loads.py")
    # orch tells it without being asked, too.
    hang = heard(process, "no progress for 5 s: ").splitlines()[-1]
    line = LOADS.splitlines().index("        dist.all_reduce(batch)") + 1
    sleeping = LOADS.splitlines().index("                time.sleep(600)") + 1
    lines = [
        f"2 ranks (0-1): all_reduce at loads.py:{line}",
        f"rank 2 on node3: Slow.__getitem__ at loads.py:{sleeping}",
    ]
    assert f"no progress for 5 s: {lines[0]}; {lines[1]} → the others wait for rank 2 on node3" in hang
    shown = orch("stacks")
    assert shown.returncode == 0 and shown.stdout.splitlines() == lines, shown.stderr
    full = orch("stacks", "--full").stdout
    assert "\n    _MapDatasetFetcher.fetch  " in full and f"/loads.py:{sleeping}\n" in full
    process.send_signal(signal.SIGINT)
    rest(process)
    ended = orch("stacks")
    assert ended.returncode == 2 and "nothing runs on these hosts" in ended.stderr


def test_a_rank_that_left_and_all_threads(orch: Orch) -> None:
    (orch.folder / "leaves.py").write_text(LEAVES)
    process = orch.popen("run", "leaves.py")
    for _ in range(3):
        heard(process, "up")
    shown = orch("stacks")
    assert shown.stdout.splitlines()[0].startswith("2 ranks (0,2): waiting at leaves.py:"), shown.stderr
    assert "rank 1 on node2: has no process: it has ended" in shown.stdout
    told = json.loads(orch("stacks", "--json").stdout)
    threads = [
        thread["name"] for node in told["nodes"].values() for each in node["ranks"] for thread in each["threads"]
    ]
    assert sorted(threads) == ["MainThread", "MainThread", "reader", "reader"]
    process.send_signal(signal.SIGINT)
    rest(process)
