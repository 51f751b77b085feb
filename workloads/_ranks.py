"""This process among all ranks of a run: its device, its process group, its share of each batch.

The scripts in this folder import this file as ``_ranks``; copy it together with them.
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

# Makes destroy_process_group end gloo's threads. The functions of this module keep, as a default, whichever group
# exists when it is imported, and DistributedDataParallel imports it: then the threads outlive the group. One that
# drops its last tensor while Python ends aborts the process ("terminate called without an active exception").
import torch.distributed.nn.functional
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Sampler

BACKENDS = ("auto", "nccl", "gloo", "mpi")


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--backend``.

    orch sets ``ORCH_BACKEND`` to the backend that all nodes support: a group needs the same one on every rank.
    """
    parser.add_argument("--backend", choices=BACKENDS, default=os.environ.get("ORCH_BACKEND", "auto"))


def add_learning(
    parser: argparse.ArgumentParser,
    *,
    batch_size: int | None,
    lr: float | None,
    batch: str = "samples per rank",
    rate: str | None = None,
) -> None:
    """Add the options ``--batch-size`` and ``--lr`` with their defaults; ``batch`` and ``rate`` are their help."""
    parser.add_argument("--batch-size", type=int, default=batch_size, metavar="N", help=batch)
    parser.add_argument("--lr", "--learning-rate", type=float, default=lr, metavar="RATE", help=rate)


def parsed(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Return the options of the command line. ``--batch_size`` is another spelling of ``--batch-size``."""
    words = sys.argv[1:]
    for position, word in enumerate(words):
        if word == "--":
            break
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            words[position] = name.replace("_", "-") + equals + value
    options = parser.parse_args(words)
    # One check for all scripts: fewer samples than one would end in an error of torch's, or in no end at all.
    if getattr(options, "batch_size", None) is not None and options.batch_size < 1:
        refuse(f"--batch-size {options.batch_size}: expected at least 1")
    return options


def this_node() -> str:
    """Return this node's name: the one in orch's inventory, or else the host name."""
    return os.environ.get("ORCH_NODE") or socket.gethostname()


def counted(count: int, noun: str) -> str:
    """Return the count with its noun: ``1 rank``, ``2 ranks``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def refuse(text: str) -> NoReturn:
    """End this process with exit code 2 and print one line on each node; raises SystemExit.

    For errors that all ranks find: only the first rank of each node prints.
    """
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        print(f"{Path(sys.argv[0]).stem}: {text}", file=sys.stderr, flush=True)
    raise SystemExit(2)


def data_file(path: Path, option: str) -> Path:
    """Return ``path``, or the file of that path or name in the folder where orch puts data on this node.

    Ends the process with a line that names ``option`` if there is none.
    """
    sent = Path(os.environ.get("ORCH_DATA", "data"))
    for candidate in (path, sent / path, sent / path.name):
        if candidate.exists():
            return candidate
    refuse(f"{option} {path} is not here: send it with orch sync --data {path}, or name one that is on every node")


class Ranks:
    """This process among all ranks; as a context manager it makes the process group and ends it.

    A process that runs alone needs no group. With nccl each rank uses the GPU with its local rank; with gloo ranks
    use the CPU; with mpi, a GPU if there is one. ``timeout``: seconds after which a collective fails if other
    ranks do not join it; None for torch's default. MPI knows no timeout.
    """

    def __init__(self, backend: str = "auto", timeout: float | None = None) -> None:
        # torchrun sets these variables for each process that it starts. Without torchrun this is rank 0 of 1. A
        # rank counts over all nodes, a local rank on this node.
        self.rank = int(os.environ.get("RANK", "0"))
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        self.timeout = None if timeout is None else timedelta(seconds=timeout)
        gpus = torch.cuda.device_count() if backend != "gloo" else 0
        if backend == "nccl" and not gpus:
            refuse("--backend nccl needs a GPU, but torch finds none on this node: pass --backend gloo")
        # Two ranks of a group must not share a GPU: nccl refuses that.
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        if gpus and here > gpus and backend != "mpi":
            refuse(
                f"{here} ranks on this node, but {counted(gpus, 'GPU')}: "
                "start one rank per GPU, or pass --backend gloo"
            )
        self.backend = "mpi" if backend == "mpi" else "nccl" if gpus else "gloo"
        self.device = torch.device("cuda", self.local_rank % gpus) if gpus else torch.device("cpu")
        if gpus:
            # Otherwise the "current" GPU of every rank on this node would be GPU 0.
            torch.cuda.set_device(self.device)

    def __enter__(self) -> Ranks:
        if self.world_size > 1:
            # Returns when all ranks have called it. They meet at MASTER_ADDR and MASTER_PORT, which torchrun sets.
            if self.backend == "mpi":
                self.meet_over_mpi()
            else:
                dist.init_process_group(self.backend, timeout=self.timeout)
        return self

    def meet_over_mpi(self) -> None:
        """Make a process group over MPI."""
        from _mpi import NoMpi, init_process_group

        try:
            init_process_group(self.timeout)
        except NoMpi as error:
            refuse(f"--backend mpi: {error}")

    def __exit__(self, kind: object, *rest: object) -> None:
        # After an error other ranks may be gone, and nccl would wait for them.
        if self.world_size > 1 and kind is None:
            dist.destroy_process_group()
            if self.backend == "mpi":
                from _mpi import finish

                finish()

    def say(self, text: str) -> None:
        """Print a line, on rank 0 only: otherwise every rank would print it."""
        if self.rank == 0:
            print(text, flush=True)

    def introduce(self) -> None:
        """Print which node each rank is on: rank 0 about all, each other rank about itself.

        A collective: every rank must call it.
        """
        names = ", ".join(dict.fromkeys(self.gathered(this_node())))
        self.say(f"World size {self.world_size} on {names} ({self.backend}, {self.device.type})")
        if self.rank:
            print(f"Rank {self.rank} of {self.world_size} is on {this_node()}", flush=True)

    def gathered(self, value: Any) -> list[Any]:
        """Return the value of each rank, in rank order. A collective: every rank must call it."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def sum(self, values: Tensor) -> list[float]:
        """Return the sum of each value over all ranks. A collective: every rank must call it."""
        if self.world_size > 1:
            # nccl can reduce only what is on a GPU.
            values = values.to(self.device)
            dist.all_reduce(values)
        return [float(value) for value in values]

    def compare(self, model: nn.Module) -> None:
        """Check that all ranks have the same parameters, to the last bit, and say so; raises RuntimeError if not.

        Parameters are copied between ranks only when DistributedDataParallel is made. After that ranks exchange
        gradients, so different parameters mean that some rank took other steps than the rest. A collective: every
        rank must call it.
        """
        digest = hashlib.sha256()
        for parameter in model.parameters():
            digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        digests = self.gathered(digest.hexdigest())
        for rank, other in enumerate(digests):
            if other != digests[0]:
                raise RuntimeError(f"the parameters of rank {rank} differ from those of rank 0")
        ranks = f"{'all ' if self.world_size > 1 else ''}{counted(self.world_size, 'rank')}"
        self.say(f"Parameters are the same on {ranks}: {digests[0][:16]}")

    def parallel(self, model: nn.Module) -> nn.Module:
        """Return the model wrapped for training on all ranks.

        DistributedDataParallel copies rank 0's parameters to all ranks now, and averages the gradients of all
        ranks in each backward pass. So every rank takes the same step, and the parameters stay equal.
        """
        if self.world_size == 1:
            return model
        return DistributedDataParallel(model, device_ids=[self.device] if self.device.type == "cuda" else None)


class GlobalBatches(Sampler[Tensor]):
    """Batches of an epoch over all ranks; yields this rank's share of each, as indices of samples.

    torch's DistributedSampler repeats samples until all ranks have equally many. Here the last batch is smaller
    instead, so that each sample comes once. The batches are the same on any number of ranks, and a run may
    continue in the middle of an epoch on another number.

    For a DataLoader with ``batch_size=None``, which takes whole batches from its sampler. ``size``: samples of a
    batch over all ranks. ``epoch``: the current epoch, from 0; ``seen``: how many of its samples are done. The
    training loop advances both.
    """

    def __init__(self, samples: int, size: int, ranks: Ranks, seed: int) -> None:
        self.samples, self.size, self.ranks, self.seed = samples, size, ranks, seed
        self.epoch = 0
        self.seen = 0

    def __iter__(self) -> Iterator[Tensor]:
        # The order follows from seed and epoch, so all ranks compute the same one without talking to each other.
        # Each then takes every world_size-th sample of a batch, beginning with its own rank.
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.samples, generator=generator)
        for first in range(self.seen, self.samples, self.size):
            yield order[first : first + self.size][self.ranks.rank :: self.ranks.world_size]

    def next_epoch(self) -> None:
        """Begin the next epoch."""
        self.epoch, self.seen = self.epoch + 1, 0

    def now(self) -> int:
        """Return the number of samples in the next batch, over all ranks."""
        return min(self.size, self.samples - self.seen)
