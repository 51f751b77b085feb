"""The trainer of PyTorch's multi-node tutorial: train, save every few epochs, resume after a restart.

    orch run multinode -- 20 5

Follows "Multinode Training" and "Fault-tolerant Distributed Training with torchrun" of PyTorch's DDP tutorials
(pytorch/examples, distributed/ddp-tutorial-series/multinode.py). It runs on CPUs and GPUs, and its snapshot is
complete or absent. Runs under ``orch run multinode``, under plain ``torchrun``, and as a single process.
"""

from __future__ import annotations

import argparse
import copy
import time
from typing import Any

import torch
import torch.nn.functional as F
from _ranks import Ranks, add_backend, add_learning, counted, parsed, refuse
from _records import Snapshots, Tally, add_records, plot_curves, write_metrics
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset


def main(description: str | None = __doc__, backend: str | None = None) -> None:
    """Train on all ranks. ``backend``: the default of ``--backend``; None for orch's choice."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("total_epochs", type=int, metavar="TOTAL_EPOCHS", help="epochs to train")
    parser.add_argument("save_every", type=int, metavar="SAVE_EVERY", help="epochs between two snapshots")
    add_learning(parser, batch_size=32, lr=0.05)
    add_backend(parser)
    add_records(parser)
    if backend is not None:
        parser.set_defaults(backend=backend)
    options = parsed(parser)
    if options.save_every < 1:
        refuse(f"SAVE_EVERY {options.save_every}: expected at least 1")
    with Ranks(options.backend) as ranks:
        Trainer(options, ranks).train()


def made_dataset(samples: int = 2048) -> TensorDataset:
    """Return points ``(samples, 20)`` and a linear function of them ``(samples, 1)`` with some noise."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(samples, 20, generator=generator)
    noise = 0.1 * torch.randn(samples, 1, generator=generator)
    return TensorDataset(inputs, inputs @ torch.rand(20, 1, generator=generator) + noise)


def loader(dataset: Dataset[Any], batch_size: int, ranks: Ranks) -> DataLoader[Any]:
    """Return a loader of this rank's share of the data, shuffled anew in each epoch.

    DistributedSampler gives each rank other samples, and repeats some so that all ranks take equally many steps: a
    rank with more steps than the others would wait for them forever.
    """
    sampler: DistributedSampler[Any] = DistributedSampler(dataset, ranks.world_size, ranks.rank)
    return DataLoader(dataset, batch_size=batch_size, sampler=sampler, pin_memory=ranks.device.type == "cuda")


class Trainer:
    """Trains epoch by epoch; a run that was stopped continues after the last epoch that it saved."""

    def __init__(self, options: argparse.Namespace, ranks: Ranks) -> None:
        self.options, self.ranks = options, ranks
        self.tally = Tally()
        # The same first parameters on all ranks.
        torch.manual_seed(0)
        self.loader = loader(made_dataset(), options.batch_size, ranks)
        self.model = nn.Linear(20, 1).to(ranks.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=options.lr)
        self.snapshots = Snapshots(options.snapshot, ranks, resume=not options.no_resume)
        self.epochs_run = 0
        self.rows: list[dict[str, Any]] = []
        # The state at the start of the current epoch. It is saved if a signal comes during the epoch, which the
        # next start then repeats.
        self.begun = self.snapshot()
        self.load_snapshot()
        # Train with the wrapped model, and save the inner one: names of the wrapped model's parameters begin with
        # "module.", so its snapshots would not fit a single process.
        self.parallel = ranks.parallel(self.model)

    def train(self) -> None:
        """Train the remaining epochs, then write the metrics and the plot."""
        self.ranks.introduce()
        total = self.options.total_epochs
        if self.epochs_run >= total:
            self.ranks.say(f"Already trained for {counted(self.epochs_run, 'epoch')}")
        with self.snapshots.guarding(lambda: self.begun):
            for epoch in range(self.epochs_run, total):
                began = time.monotonic()
                loss, samples = self.run_epoch(epoch)
                seconds = time.monotonic() - began
                row = {
                    "epoch": epoch,
                    "loss": loss,
                    "seconds": seconds,
                    "samples_per_second": self.tally.add(samples, seconds),
                    "world_size": self.ranks.world_size,
                }
                self.rows.append(row)
                self.ranks.say(
                    f"Epoch {epoch} of {total}  batch size {self.options.batch_size}  loss {loss:.6f}  "
                    f"{seconds:.2f} s  {row['samples_per_second']:.0f} samples/s"
                )
                self.epochs_run = epoch + 1
                self.begun = self.snapshot()
                if self.epochs_run % self.options.save_every == 0 or self.epochs_run == total:
                    self.snapshots.save(self.begun)
                    self.ranks.say(f"Epoch {epoch}: snapshot saved at {self.options.snapshot}")
        if self.ranks.rank == 0 and self.rows:
            write_metrics(self.options.output_dir, self.rows)
            panels = {"Mean squared error": ["loss"], "Samples/s": ["samples_per_second"]}
            plot_curves(self.options.output_dir / "loss.png", self.rows, "epoch", panels)
        self.tally.summarise(self.ranks)

    def run_epoch(self, epoch: int) -> tuple[float, float]:
        """Train one epoch; return the mean loss and the number of samples over all ranks."""
        # Without this the order would be the same in every epoch.
        self.loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        total = torch.zeros(3, dtype=torch.float64)
        for inputs, targets in self.loader:
            self.snapshots.poll(lambda: self.begun)
            total += torch.tensor([self.run_batch(inputs, targets), 1.0, len(inputs)])
        loss_sum, count, samples = self.ranks.sum(total)
        return loss_sum / count, samples

    def run_batch(self, inputs: Tensor, targets: Tensor) -> float:
        """Train on one batch; return the loss on this rank."""
        self.optimizer.zero_grad()
        loss = F.mse_loss(self.parallel(inputs.to(self.ranks.device)), targets.to(self.ranks.device))
        # DDP averages the gradients over all ranks during the backward pass.
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()

    def snapshot(self) -> dict[str, Any]:
        """Return the state after the epochs so far: a copy, because training changes the tensors in place."""
        return {
            "workload": "multinode",
            "step": self.epochs_run,
            "rows": list(self.rows),
            "model": copy.deepcopy(self.model.state_dict()),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
        }

    def load_snapshot(self) -> None:
        """Continue from the newest snapshot, if there is one."""
        found = self.snapshots.load("multinode")
        if found is None:
            return
        self.model.load_state_dict(found["model"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.epochs_run, self.rows = found["step"], found["rows"]
        self.begun = self.snapshot()
        self.ranks.say(f"Resuming training from snapshot at epoch {self.epochs_run}")


if __name__ == "__main__":
    main()
