"""Scripts of a plan, started by hand on three hosts without orch there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import Orch
from tests.namespaces import Cluster, NodeHost

pytestmark = [pytest.mark.cluster, pytest.mark.torch]

# Every rank trains on its own data, and writes the parameters, which are equal after each step.
TRAIN = """
import os
import torch, torch.distributed as dist
# Before DDP: otherwise gloo's threads outlive the group, and may abort the process at its end (workloads/_ranks.py).
import torch.distributed.nn.functional
from torch.nn.parallel import DistributedDataParallel
from shared import STEPS

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
torch.manual_seed(1 + rank)
for _ in range(STEPS):
    x = torch.randn(16, 4)
    loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
numbers = [value for each in model.parameters() for value in each.flatten().tolist()]
with open("parameters.txt", "w") as file:
    file.write("".join(f"{value!r}\\n" for value in numbers))
print(f"rank {rank} of {dist.get_world_size()} on {os.environ['ORCH_NODE']}: loss {loss.item():.6f}", flush=True)
dist.destroy_process_group()
"""


def test_scripts_started_by_hand_train_to_the_same_result(orch: Orch, cluster: Cluster) -> None:
    (orch.folder / "t.py").write_text(TRAIN)
    (orch.folder / "shared.py").write_text("STEPS = 20\n")
    ran = orch("run", "t.py")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    expected = [(orch.run_folder() / host.name / "parameters.txt").read_text() for host in cluster.hosts]
    assert len(set(expected)) == 1 and expected[0].count("\n") == 49
    planned = orch("plan", "t.py", "--format", "sh", "--output", "scripts")
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.splitlines()[2] == "scripts/run_distributed_node3.sh  node3"
    assert orch("sync").returncode == 0
    for host in cluster.hosts:
        # Only the synced code stays.
        assert host.run("sh", "-c", "mv .orch orch-elsewhere && rm -rf orch-work/runs").returncode == 0
    started = []
    try:
        for number, host in enumerate(cluster.hosts, 1):
            started.append(by_hand(host, orch.folder / "scripts" / f"run_distributed_node{number}.sh"))
        printed = [process.communicate(timeout=60)[0] for process in started]
        assert [process.returncode for process in started] == [0, 0, 0], "".join(printed)
        for rank, host in enumerate(cluster.hosts):
            line = next(line for line in printed[rank].splitlines() if "loss" in line)
            assert line.startswith(f"[default0]:rank {rank} of 3 on {host.name}: loss ")
            # orch run printed the same loss for this rank.
            assert line.partition(":")[2] in ran.stdout
            found = host.run("sh", "-c", "cat orch-work/runs/*/*/parameters.txt").stdout
            assert found == expected[0], printed[rank]
            assert (
                line.partition(":")[2]
                in host.run("sh", "-c", "cat orch-work/runs/*/*.logs/logs/*/*/0/stdout.log").stdout
            )
            assert host.run("test", "-e", ".orch").returncode == 1
    finally:
        for process in started:
            process.kill()
            process.wait()
        for host in cluster.hosts:
            host.run("sh", "-c", "rm -rf .orch orch-work/runs && mv orch-elsewhere .orch")


def by_hand(host: NodeHost, script: Path) -> subprocess.Popen[str]:
    """Copy a script to a host, and start it there in a plain shell."""
    assert host.run("tee", script.name, input=script.read_text()).returncode == 0
    return subprocess.Popen(
        host.enter("sh", script.name),
        env=host.login(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
