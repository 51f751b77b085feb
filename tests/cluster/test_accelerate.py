"""``accelerate launch`` with torchrun's c10d rendezvous, and in elastic runs."""

from __future__ import annotations

import pytest

from tests.conftest import Orch

pytestmark = [pytest.mark.cluster, pytest.mark.torch]

# The rank of one host fails once; a sum over all ranks shows that they met.
SUM = """
import os, sys
import torch, torch.distributed as dist

if os.environ["ORCH_NODE"] == sys.argv[1] and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    sys.exit("fails once")
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
print(f"sum {total.item():.0f} of {os.environ['TORCHELASTIC_RUN_ID']} on {os.environ['ACCELERATE_MIXED_PRECISION']}", flush=True)
dist.destroy_process_group()
"""


def test_accelerate_meets_by_c10d_and_restarts_the_ranks(orch: Orch) -> None:
    (orch.folder / "t.py").write_text(SUM)
    options = ["--launcher", "accelerate", "--mixed-precision", "bf16", "--rdzv-id", "job7"]
    done = orch("run", *options, "--nodes", "2", "--nnodes", "1:2", "t.py", "node2")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if "sum" in line]
    assert sorted(line.partition("] ")[2] for line in lines) == ["sum 2 of job7 on bf16"] * 2, done.stdout
    assert {line.partition(":")[0] for line in lines} == {"[node1", "[node2"}
    assert max(event["restart"] for event in orch.events("worker")) == 1
