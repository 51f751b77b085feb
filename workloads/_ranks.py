"""This process among all ranks of a run: its device, its process group, its share of each batch.

Scripts beside it import it by its name; take it along when you copy one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import socket
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Sampler

BACKENDS = ("auto", "nccl", "gloo")


def add_backend(parser: argparse.ArgumentParser) -> None:
    """The option ``--backend``; orch says by ``ORCH_BACKEND`` what all nodes have."""
    parser.add_argument("--backend", choices=BACKENDS, default=os.environ.get("ORCH_BACKEND", "auto"))


def this_node() -> str:
    """This node's name: as orch calls it, or as it calls itself."""
    return os.environ.get("ORCH_NODE") or socket.gethostname()


def refuse(text: str) -> NoReturn:
    """End with exit code 2 and one line from each node; raises SystemExit."""
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        print(f"{Path(sys.argv[0]).stem}: {text}", file=sys.stderr, flush=True)
    raise SystemExit(2)


def data_file(path: Path, option: str) -> Path:
    """A file as it was named, or by that name where orch puts data on this node; ends with a line if it is not."""
    sent = Path(os.environ.get("ORCH_DATA", "data")) / path
    for candidate in (path, sent):
        if candidate.exists():
            return candidate
    refuse(f"{option} {path} is not here: send it with orch sync --data {path}, or name one that is on every node")


class Ranks:
    """This process among all of them; a context that makes and ends the process group. Alone it needs none.

    With nccl each local rank has the GPU of its number; else it is gloo and the CPU. ``timeout``: after how many
    seconds a collective gives up.
    """

    def __init__(self, backend: str = "auto", timeout: float | None = None) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self.timeout = None if timeout is None else timedelta(seconds=timeout)
        gpus = torch.cuda.device_count() if backend != "gloo" else 0
        if backend == "nccl" and not gpus:
            refuse("--backend nccl needs a GPU, and torch sees none here: pass --backend gloo")
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if gpus and here > gpus:
            refuse(f"{here} ranks on this node, and {gpus} GPUs: start as many ranks, or pass --backend gloo")
        self.backend = "nccl" if gpus else "gloo"
        self.device = torch.device("cuda", self.local_rank) if gpus else torch.device("cpu")
        if gpus:
            torch.cuda.set_device(self.device)

    def __enter__(self) -> Ranks:
        if self.world_size > 1:
            dist.init_process_group(self.backend, timeout=self.timeout)
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        # After an error the others may be gone, and nccl would wait for them.
        if self.world_size > 1 and kind is None:
            dist.destroy_process_group()

    def say(self, text: str) -> None:
        """A line, from rank 0 only."""
        if self.rank == 0:
            print(text, flush=True)

    def introduce(self) -> None:
        """Who is where: a line from rank 0 about all, and one from each other rank. Every rank must call."""
        names = ", ".join(dict.fromkeys(self.gathered(this_node())))
        self.say(f"World size {self.world_size} on {names} ({self.backend}, {self.device.type})")
        if self.rank:
            print(f"Rank {self.rank} of {self.world_size} is on {this_node()}", flush=True)

    def gathered(self, value: Any) -> list[Any]:
        """The value of each rank, in rank order. Every rank must call."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def sum(self, values: Tensor) -> list[float]:
        """The sum of each value over all ranks. Every rank must call."""
        if self.world_size > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
        return [float(value) for value in values]

    def compare(self, model: nn.Module) -> None:
        """See that all ranks have the same parameters, to the last bit, and say so; raises RuntimeError if not."""
        digest = hashlib.sha256()
        for parameter in model.parameters():
            digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        digests = self.gathered(digest.hexdigest())
        for rank, other in enumerate(digests):
            if other != digests[0]:
                raise RuntimeError(f"the parameters of rank {rank} are not those of rank 0")
        self.say(f"Parameters are the same on all {self.world_size} ranks: {digests[0][:16]}")

    def parallel(self, model: nn.Module) -> nn.Module:
        """The model as every rank trains it: the mean of all ranks' gradients arrives at each."""
        if self.world_size == 1:
            return model
        return DistributedDataParallel(model, device_ids=[self.device] if self.device.type == "cuda" else None)


class GlobalBatches(Sampler[Tensor]):
    """The batches of an epoch, and of each this rank's share, as indices: every sample once on any ranks.

    torch's DistributedSampler repeats some samples so that all ranks have as many. Here the last batch is smaller
    instead, so a run on other ranks has the same batches, and can go on from the middle of an epoch. For a
    DataLoader with ``batch_size=None``; set ``epoch``, and ``seen`` to the number of samples that are done.
    """

    def __init__(self, samples: int, size: int, ranks: Ranks, seed: int) -> None:
        self.samples, self.size, self.ranks, self.seed = samples, size, ranks, seed
        self.epoch = 0
        self.seen = 0

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.samples, generator=generator)
        for first in range(self.seen, self.samples, self.size):
            yield order[first : first + self.size][self.ranks.rank :: self.ranks.world_size]

    def next_epoch(self) -> None:
        """This one is done."""
        self.epoch, self.seen = self.epoch + 1, 0

    def now(self) -> int:
        """How many samples the next batch has over all ranks."""
        return min(self.size, self.samples - self.seen)
