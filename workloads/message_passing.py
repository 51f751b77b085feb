"""Messages between ranks, each checked: 42 from rank 0 to every other rank, a ring, a broadcast, an all-reduce.

Runs under ``orch run message-passing``, under plain ``torchrun``, and as a single process.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from _ranks import Ranks, add_backend, counted, parsed, this_node
from _records import Tally


def main() -> int:
    """Pass the messages; return the exit code, 1 if a rank received a wrong value."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_backend(parser)
    options = parsed(parser)
    tally = Tally("exercises")
    with Ranks(options.backend) as ranks:
        if ranks.world_size == 1:
            print(f"Rank 0 on {this_node()} is alone: there is no other rank to send to", flush=True)
        exercises = EXERCISES.items() if ranks.world_size > 1 else ()
        right = [passed(name, exercise, ranks, tally) for name, exercise in exercises]
        tally.summarise(ranks)
    return 0 if all(right) else 1


def passed(name: str, exercise: Callable[[Ranks], bool], ranks: Ranks, tally: Tally) -> bool:
    """Run an exercise on all ranks at once; return whether every rank got the right values.

    Rank 0 prints how long the exercise took on it.
    """
    # Wait for all ranks, so that the time is that of the messages and not that of a late rank.
    dist.barrier()
    began = time.monotonic()
    right = exercise(ranks)
    if ranks.device.type == "cuda":
        # On a GPU a message is only queued when the call returns.
        torch.cuda.synchronize()
    seconds = time.monotonic() - began
    tally.add(1, seconds)
    (wrong,) = ranks.sum(torch.tensor([0.0 if right else 1.0]))
    verdict = f"WRONG on {counted(round(wrong), 'rank')}" if wrong else "right on all ranks"
    ranks.say(f"{name}: {verdict}, {seconds * 1e3:.2f} ms")
    return not wrong


def point_to_point(ranks: Ranks) -> bool:
    """Rank 0 sends 42 to every other rank, one after the other.

    ``send`` and ``recv`` concern two ranks, and must come in pairs: a ``recv`` without its ``send`` waits forever.
    """
    expected = torch.tensor([42.0], device=ranks.device)
    if ranks.rank == 0:
        for other in range(1, ranks.world_size):
            dist.send(expected, dst=other)
        print(
            f"Rank 0 on {this_node()} sent {expected.item()} to {counted(ranks.world_size - 1, 'rank')}",
            flush=True,
        )
        return True
    received = torch.zeros(1, device=ranks.device)
    dist.recv(received, src=0)
    print(f"Rank {ranks.rank} on {this_node()} received {received.item()} from rank 0", flush=True)
    return torch.equal(received, expected)


def ring(ranks: Ranks) -> bool:
    """Pass a number once around the ranks; each rank adds its own.

    Rank 0 sends first and every other rank receives first. If all of them received first, all would wait forever.
    """
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
    """Give all ranks the values of the last one.

    A collective: every rank calls it, with a tensor of the same size, which it overwrites on all ranks but the
    source.
    """
    source = ranks.world_size - 1
    values = torch.full((1000,), float(ranks.rank), device=ranks.device)
    dist.broadcast(values, src=source)
    return bool((values == source).all())


def all_reduce(ranks: Ranks) -> bool:
    """Give all ranks the sum of the values of all ranks.

    This is how DistributedDataParallel averages gradients.
    """
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
