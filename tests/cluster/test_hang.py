"""A run that hangs on three hosts: what orch says of it without being asked, and what follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Orch
from tests.namespaces import Cluster
from tests.waiting import heard, rest

pytestmark = [pytest.mark.cluster, pytest.mark.torch]

# In the first attempt, rank 2 computes until orch has told of it, and later it is in another collective than they.
DIFFERS = """
import os, pathlib, time, torch, torch.distributed as dist
def compute(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
def main():
    dist.init_process_group("gloo")
    odd = dist.get_rank() == 2 and os.environ["ORCH_ATTEMPT"] == "1"
    snapshot = pathlib.Path("snapshot")
    begins = int(snapshot.read_text()) if snapshot.exists() else 0
    for step in range(begins, 6):
        while odd and step == 1 and not pathlib.Path("~/told").expanduser().exists():
            compute(1)
        if odd and step == 3:
            dist.barrier()
        dist.all_reduce(torch.ones(1))
        snapshot.write_text(str(step + 1))
    print("steps", begins, "to", step + 1, flush=True)
    dist.destroy_process_group()
main()
"""


def test_a_run_that_hangs_is_restarted_from_its_snapshots(orch: Orch, cluster: Cluster, tmp_path: Path) -> None:
    (orch.folder / "differs.py").write_text(DIFFERS)
    refused = orch("run", "--on-hang", "restart", "differs.py")
    assert refused.returncode == 2 and "--max-restarts" in refused.stderr
    words = ["--hang-timeout", "5s", "--on-hang", "restart", "--max-restarts", "1"]
    process = orch.popen("run", *words, "--notify", f"echo $ORCH_EVENT >> {tmp_path}/told", "differs.py")
    told = heard(process, "ranks 0-1 made no progress for 5 s")
    (cluster.hosts[2].home / "told").touch()
    told += rest(process)
    assert process.returncode == 0, told

    def place(text: str) -> str:
        (number,) = (n for n, line in enumerate(DIFFERS.splitlines(), 1) if text in line)
        return f"differs.py:{number}"

    waiting = f"2 ranks (0-1): all_reduce at {place('all_reduce')}; rank 2 on node3: "
    for_whom = " → the others wait for rank 2 on node3 → "
    looked = [line for line in told.splitlines() if "no progress for 5 s" in line and "stacks-" in line]
    busy, hang = looked[0], looked[-1]
    assert f"ranks 0-1 made no progress for 5 s, rank 2 did: {waiting}compute at differs.py:" in busy
    assert f"no progress for 5 s: {waiting}barrier at {place('barrier')}{for_whom}" in hang
    assert for_whom in busy and "the ranks are in different collectives" in hang
    stacks = max(orch.run_folder().glob("stacks-*.txt")).read_text()
    assert "\n    main  /" in stacks and "/distributed_c10d.py:" in stacks
    assert told.count("steps 3 to 6") == 3
    assert (tmp_path / "told").read_text().split() == ["hung", "restarted", "ended"]
