"""Time all-reduce over all ranks, in small and in large messages: what a step of data-parallel training waits for.

Runs under ``orch run all-reduce``, under plain ``torchrun``, and as part of ``orch doctor --deep``.
"""

from __future__ import annotations

import argparse
import os
import time

import torch
import torch.distributed as dist


def main() -> None:
    """Every rank takes part; rank 0 prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 16 << 20], metavar="BYTES")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument(
        "--backend", choices=["auto", "nccl", "gloo"], default=os.environ.get("ORCH_BACKEND", "auto")
    )
    options = parser.parse_args()
    nccl = options.backend == "nccl" or (options.backend == "auto" and torch.cuda.is_available())
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if nccl else torch.device("cpu")
    if nccl:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if nccl else "gloo")
    try:
        for size in options.sizes:
            report(size, timed(size, options.turns, device))
    finally:
        dist.destroy_process_group()


def timed(size: int, turns: int, device: torch.device) -> float:
    """The median duration of an all-reduce of ``size`` bytes, in seconds, after one that does not count.

    Raises RuntimeError if the sum is wrong.
    """
    seconds = []
    for turn in range(turns + 1):
        data = torch.ones(max(1, size // 4), dtype=torch.float32, device=device)
        dist.barrier()
        began = time.monotonic()
        dist.all_reduce(data)
        if device.type == "cuda":
            torch.cuda.synchronize()
        if turn:
            seconds.append(time.monotonic() - began)
        if not bool((data == dist.get_world_size()).all()):
            raise RuntimeError(f"all-reduce of {size} bytes gave {data[0].item()}, not {dist.get_world_size()}")
    return sorted(seconds)[len(seconds) // 2]


def report(size: int, seconds: float) -> None:
    """A line from rank 0. Bus bandwidth as NCCL's tests have it: 2 (n - 1) / n of the data passes each link."""
    world_size = dist.get_world_size()
    if dist.get_rank() == 0:
        bandwidth = size / seconds * 2 * (world_size - 1) / world_size
        print(
            f"all-reduce of {size} bytes on {world_size} ranks: {seconds * 1e3:.2f} ms, "
            f"bus bandwidth {bandwidth * 8e-6:.1f} Mbit/s",
            flush=True,
        )


if __name__ == "__main__":
    main()
