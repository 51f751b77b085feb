"""Messages between ranks, each checked: 42 from rank 0 to every other, a ring, a broadcast, an all-reduce.

Runs under ``orch run message-passing``, under plain ``torchrun``, and as a single process.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from _ranks import Ranks, add_backend, this_node


def main() -> int:
    """Pass the messages; returns the exit code, 1 if a rank received anything else than it should."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_backend(parser)
    options = parser.parse_args()
    with Ranks(options.backend) as ranks:
        if ranks.world_size == 1:
            print(f"Rank 0 on {this_node()} is alone: there is nobody to send to", flush=True)
            return 0
        right = [passed(name, exercise, ranks) for name, exercise in EXERCISES.items()]
    return 0 if all(right) else 1


def passed(name: str, exercise: Callable[[Ranks], bool], ranks: Ranks) -> bool:
    """Do an exercise on all ranks at once; whether every rank got what it should. Rank 0 says how long it took."""
    dist.barrier()
    began = time.monotonic()
    right = exercise(ranks)
    if ranks.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.monotonic() - began
    (wrong,) = ranks.sum(torch.tensor([0.0 if right else 1.0]))
    verdict = f"WRONG on {wrong:.0f} ranks" if wrong else "right on all ranks"
    ranks.say(f"{name}: {verdict}, {seconds * 1e3:.2f} ms")
    return not wrong


def point_to_point(ranks: Ranks) -> bool:
    """Rank 0 sends 42 to every other rank, one after the other."""
    expected = torch.tensor([42.0], device=ranks.device)
    if ranks.rank == 0:
        for other in range(1, ranks.world_size):
            dist.send(expected, dst=other)
        print(f"Rank 0 on {this_node()} sent {expected.item()} to {ranks.world_size - 1} ranks", flush=True)
        return True
    received = torch.zeros(1, device=ranks.device)
    dist.recv(received, src=0)
    print(f"Rank {ranks.rank} on {this_node()} received {received.item()} from rank 0", flush=True)
    return torch.equal(received, expected)


def ring(ranks: Ranks) -> bool:
    """A number goes once around, and each rank adds its own."""
    after, before = (ranks.rank + 1) % ranks.world_size, (ranks.rank - 1) % ranks.world_size
    number = torch.zeros(1, device=ranks.device)
    if ranks.rank == 0:
        dist.send(number, dst=after)
        dist.recv(number, src=before)
        return number.item() == sum(range(ranks.world_size))
    dist.recv(number, src=before)
    right = number.item() == sum(range(ranks.rank))
    dist.send(number + ranks.rank, dst=after)
    return right


def broadcast(ranks: Ranks) -> bool:
    """All ranks get what the last one has."""
    source = ranks.world_size - 1
    values = torch.full((1000,), float(ranks.rank), device=ranks.device)
    dist.broadcast(values, src=source)
    return bool((values == source).all())


def all_reduce(ranks: Ranks) -> bool:
    """All ranks get the sum of what each has."""
    values = torch.full((1000,), float(ranks.rank + 1), device=ranks.device)
    dist.all_reduce(values)
    return bool((values == ranks.world_size * (ranks.world_size + 1) / 2).all())


EXERCISES: dict[str, Callable[[Ranks], bool]] = {
    "point to point": point_to_point,
    "ring": ring,
    "broadcast": broadcast,
    "all-reduce": all_reduce,
}

if __name__ == "__main__":
    sys.exit(main())
