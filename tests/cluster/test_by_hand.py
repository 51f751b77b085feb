"""Scripts of a plan, started by hand on three hosts without orch there."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Orch
from tests.namespaces import Cluster, NodeHost
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.torch]

# Every rank trains on its own data, and writes the parameters, which are equal after each step.
TRAIN = """
import faulthandler, os
faulthandler.dump_traceback_later(60)
import torch, torch.distributed as dist
# Before DDP: otherwise gloo's threads outlive the group, and may abort the process at its end (workloads/_ranks.py).
import torch.distributed.nn.functional
from torch.nn.parallel import DistributedDataParallel
from shared import STEPS

def train():
    rank = dist.get_rank()
    torch.manual_seed(0)
    layers = torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)
    model = DistributedDataParallel(torch.nn.Sequential(*layers))
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

dist.init_process_group("gloo")
# A model in a global variable would keep the group, and gloo's threads, until Python ends.
train()
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
        outputs = [orch.folder / f"{host.name}.out" for host in cluster.hosts]
        for number, (host, output) in enumerate(zip(cluster.hosts, outputs, strict=True), 1):
            started.append(by_hand(host, orch.folder / "scripts" / f"run_distributed_node{number}.sh", output))
        ended = until_all_ended(started)
        printed = [output.read_text() for output in outputs]
        assert ended == [0, 0, 0], "".join(printed)
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


def by_hand(host: NodeHost, script: Path, output: Path) -> subprocess.Popen[bytes]:
    """Copy a script to a host, and start it there in a plain shell, which prints to a file."""
    assert host.run("tee", script.name, input=script.read_text()).returncode == 0
    with output.open("wb") as file:
        return subprocess.Popen(
            host.enter("sh", script.name),
            env=host.login(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
        )


def until_all_ended(processes: list[subprocess.Popen[bytes]]) -> list[int | None]:
    """Return the exit codes; None for a process that has not ended in time."""
    with contextlib.suppress(AssertionError):
        until(lambda: all(process.poll() is not None for process in processes), 90)
    return [process.returncode for process in processes]
