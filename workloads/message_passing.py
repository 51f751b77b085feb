"""Point-to-point messages: rank 0 sends tensor([42.]) to every other rank, which prints it and its host.

Runs under ``orch run message-passing``, under plain ``torchrun``, and as a single process.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys

import torch
import torch.distributed as dist


def main() -> int:
    """Send and check; returns the exit code, 1 if a rank received anything else."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--backend", choices=["auto", "nccl", "gloo"], default=os.environ.get("ORCH_BACKEND", "auto")
    )
    backend = parser.parse_args().backend
    if backend == "auto":
        backend = "nccl" if torch.cuda.is_available() else "gloo"
    host = os.environ.get("ORCH_NODE") or socket.gethostname()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        print(f"Rank 0 on {host} is alone: there is nobody to send to", flush=True)
        return 0

    device = torch.device("cpu")
    if backend == "nccl":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group(backend)
    rank, world_size = dist.get_rank(), dist.get_world_size()
    expected = torch.tensor([42.0], device=device)
    right = True
    if rank == 0:
        for other in range(1, world_size):
            dist.send(expected, dst=other)
        print(f"Rank 0 on {host} sent {expected.item()} to {world_size - 1} ranks", flush=True)
    else:
        received = torch.zeros(1, device=device)
        dist.recv(received, src=0)
        right = torch.equal(received, expected)
        print(f"Rank {rank} on {host} received {received.item()} from rank 0", flush=True)
    dist.barrier()
    dist.destroy_process_group()
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
