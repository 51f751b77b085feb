"""The process group over mpi4py: each collective of torch.distributed on three ranks, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.torch

MPIRUN = Path(sys.prefix, "bin", "mpirun")
# Each rank checks what it gets: sums and copies of tensors that follow from the ranks' numbers.
COLLECTIVES = """
import sys
import torch, torch.distributed as dist
from _mpi import NAME, adopt_ranks, finish, init_process_group

adopt_ranks()
init_process_group()
rank, size = dist.get_rank(), dist.get_world_size()
assert dist.get_backend() == NAME

def of(number, dtype=torch.float32):
    return torch.arange(4).to(dtype) + number

everyone = [of(each) for each in range(size)]
for dtype in (torch.float32, torch.float64, torch.int64, torch.float16, torch.bfloat16):
    tensor = of(rank, dtype)
    dist.all_reduce(tensor)
    assert torch.equal(tensor, sum(of(each, dtype) for each in range(size))), dtype
for operation, expected in (
    (dist.ReduceOp.MAX, everyone[-1]),
    (dist.ReduceOp.MIN, everyone[0]),
    (dist.ReduceOp.AVG, sum(everyone) / size),
    (dist.ReduceOp.PRODUCT, everyone[0] * everyone[1] * everyone[2]),
):
    tensor = of(rank)
    dist.all_reduce(tensor, operation)
    assert torch.equal(tensor, expected), operation
# Tensors that are not contiguous keep their shape.
tensor = torch.full((2, 3), float(rank)).t()
dist.all_reduce(tensor)
assert tensor.shape == (3, 2) and bool((tensor == 3).all())
flags = torch.tensor([rank == 0, False])
dist.all_reduce(flags, dist.ReduceOp.MAX)
assert flags.tolist() == [True, False]

tensor = of(rank)
dist.reduce(tensor, 1)
assert torch.equal(tensor, sum(everyone) if rank == 1 else of(rank))
tensor = of(rank)
dist.broadcast(tensor, 2)
assert torch.equal(tensor, of(2))
gathered = [torch.empty(4) for _ in range(size)]
dist.all_gather(gathered, of(rank))
assert all(map(torch.equal, gathered, everyone))
# torch renames these: the older names are deprecated in newer versions.
all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
whole = torch.empty(4 * size)
all_gather(whole, of(rank))
assert torch.equal(whole, torch.cat(everyone))
gathered = [torch.empty(4) for _ in range(size)] if rank == 1 else None
dist.gather(of(rank), gathered, 1)
assert gathered is None or all(map(torch.equal, gathered, everyone))
piece = torch.empty(4)
dist.scatter(piece, everyone if rank == 2 else None, 2)
assert torch.equal(piece, of(rank))
dist.reduce_scatter(piece, [of(10 * each) for each in range(size)])
assert torch.equal(piece, size * of(10 * rank))
reduce_scatter(piece, torch.cat([of(10 * each) for each in range(size)]))
assert torch.equal(piece, size * of(10 * rank))
pieces = [torch.empty(4) for _ in range(size)]
dist.all_to_all(pieces, [of(10 * rank + each) for each in range(size)])
assert all(torch.equal(got, of(10 * each + rank)) for each, got in enumerate(pieces))
rows = torch.empty(size, 4)
dist.all_to_all_single(rows, torch.stack([of(10 * rank + each) for each in range(size)]))
assert all(torch.equal(got, of(10 * each + rank)) for each, got in enumerate(rows))
# Large messages of all at once: nobody may wait for a receiver before it receives.
large = torch.full((1 << 20,), float(rank))
received = torch.empty(1 << 20)
messages = dist.batch_isend_irecv([
    dist.P2POp(dist.isend, large, (rank + 1) % size), dist.P2POp(dist.irecv, received, (rank - 1) % size)
])
for message in messages:
    message.wait()
assert bool((received == (rank - 1) % size).all())
found = [None] * size
dist.all_gather_object(found, {"rank": rank})
assert found == [{"rank": each} for each in range(size)]
dist.barrier()
# A group of some ranks.
outer = dist.new_group([0, 2])
if rank != 1:
    tensor = of(rank)
    dist.all_reduce(tensor, group=outer)
    assert torch.equal(tensor, of(0) + of(2))
# Ranks in parallel get the mean of their gradients.
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 1))
model(torch.full((2, 3), float(rank))).sum().backward()
assert torch.equal(model.module.weight.grad, torch.full((1, 3), 2.0))
print("right", flush=True)
dist.destroy_process_group()
finish()
"""


def missing() -> str | None:
    return None if MPIRUN.exists() else "MPICH is not in this environment: pip install mpich mpi4py"


def test_every_collective_on_three_ranks(tmp_path: Path) -> None:
    if reason := missing():
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    script = tmp_path / "collectives.py"
    script.write_text(COLLECTIVES)
    env = {**os.environ, "PYTHONPATH": str(ROOT / "workloads"), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [str(MPIRUN), "-n", "3", sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    # mpirun may mix what ranks print at the same time.
    assert ran.stdout.count("right") == 3


def test_a_process_that_is_alone_needs_no_mpi(tmp_path: Path) -> None:
    words = [sys.executable, str(ROOT / "workloads" / "mpi_ddp.py"), "2", "1"]
    ran = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert "World size 1 on " in ran.stdout and "(mpi, " in ran.stdout
    assert (tmp_path / "snapshot.pt").is_file()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("import sys; sys.modules['mpi4py'] = None", "--backend mpi: this torch has no MPI: install mpi4py"),
        ("", "which sees 1 of 2 ranks: start them with that MPI's mpirun (orch: --launcher mpirun)"),
    ],
)
def test_what_is_missing_is_one_line(tmp_path: Path, setting: str, said: str) -> None:
    if setting == "" and (reason := missing()):
        pytest.skip(reason)
    code = f"{setting}\nfrom _ranks import Ranks\nwith Ranks('mpi'): pass\n"
    (tmp_path / "alone.py").write_text(code)
    env = {**os.environ, "PYTHONPATH": str(ROOT / "workloads"), "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    ran = subprocess.run(
        [sys.executable, str(tmp_path / "alone.py")], env=env, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 2
    assert said in ran.stderr and ran.stderr.startswith("alone: ") and ran.stderr.count("\n") == 1
