"""Regression on generated data, trained by all ranks together: a minimal DistributedDataParallel script.

Every node keeps a ``snapshot.pt``; rank 0 writes ``metrics.jsonl`` (one line for each epoch) and ``loss.png``.
Runs under ``orch run hello-ddp``, under plain ``torchrun``, and as a single process.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
import torch.nn.functional as F
from _ranks import GlobalBatches, Ranks, add_backend, add_learning, parsed
from _records import Snapshots, Tally, add_records, plot_curves, write_metrics
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

INPUTS = 8


def main() -> None:
    """Train on all ranks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    add_learning(parser, batch_size=32, lr=0.05)
    parser.add_argument(
        "--data-size", type=int, default=4096, help="training samples; evaluation has a fifth as many"
    )
    parser.add_argument("--hidden-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    add_backend(parser)
    add_records(parser)
    options = parsed(parser)
    with Ranks(options.backend) as ranks:
        Training(options, ranks).run()


def made_data(samples: int, seed: int) -> TensorDataset:
    """Return points ``(samples, 8)`` and a smooth function of them ``(samples, 1)`` with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, INPUTS, generator=generator)
    y = torch.sin(x[:, :1]) + 0.5 * x[:, 1:2] * x[:, 2:3] + x[:, 3:].mean(1, keepdim=True)
    return TensorDataset(x, y + 0.05 * torch.randn(samples, 1, generator=generator))


class Training:
    """One rank's part of the training."""

    def __init__(self, options: argparse.Namespace, ranks: Ranks) -> None:
        self.options, self.ranks = options, ranks
        self.tally = Tally()
        # Every rank generates all the data and trains on its share. The seeds are the same on all ranks, so the
        # data are, too.
        train_set = made_data(options.data_size, options.seed)
        self.test_set = made_data(max(1, options.data_size // 5), options.seed + 1)
        # The same first parameters on all ranks, and on any number of ranks.
        torch.manual_seed(options.seed)
        hidden = options.hidden_size
        self.model = nn.Sequential(nn.Linear(INPUTS, hidden), nn.Tanh(), nn.Linear(hidden, 1)).to(ranks.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=options.lr, momentum=0.9)
        self.batches = GlobalBatches(len(train_set), options.batch_size * ranks.world_size, ranks, options.seed)
        # No batch_size: the sampler yields whole batches of indices.
        self.loader = DataLoader(train_set, sampler=self.batches, batch_size=None)
        self.snapshots = Snapshots(options.snapshot, ranks, resume=not options.no_resume)
        self.step = 0
        # Sum of squared errors and number of samples of this epoch, on this rank.
        self.trained = torch.zeros(2, dtype=torch.float64)
        self.rows: list[dict[str, Any]] = []
        self.resume()
        # Train with the wrapped model, and save the inner one: names of the wrapped model's parameters begin with
        # "module.", so its snapshots would not fit a single process.
        self.parallel = ranks.parallel(self.model)

    def run(self) -> None:
        """Train the remaining epochs, then compare the ranks and plot the losses."""
        options = self.options
        named = ("epochs", "batch_size", "lr", "data_size", "hidden_size", "seed")
        self.ranks.say("Parameters: " + ", ".join(f"{name} {getattr(options, name)}" for name in named))
        self.ranks.introduce()
        parameters = sum(each.numel() for each in self.model.parameters())
        self.ranks.say(f"Model: {', '.join(map(str, self.model))}; {parameters} parameters in all")
        if not self.rows:
            before, count = self.ranks.sum(self.evaluate())
            self.rows = [{"epoch": 0, "eval_loss": before / count, "world_size": self.ranks.world_size}]
            self.ranks.say(f"Before training: evaluation loss {before / count:.5f}")
        with self.snapshots.guarding(self.state):
            while self.batches.epoch < options.epochs:
                began, first = time.monotonic(), self.batches.seen
                self.train()
                self.finish_epoch(self.batches.samples - first, time.monotonic() - began)
        first, last = self.rows[0]["eval_loss"], self.rows[-1]["eval_loss"]
        self.ranks.say(f"Evaluation loss {first:.5f} to {last:.5f}: {first / last:.1f} times smaller")
        self.ranks.compare(self.model)
        if self.ranks.rank == 0:
            panels = {"Mean squared error": ["train_loss", "eval_loss"], "Samples/s": ["samples_per_second"]}
            plot_curves(options.output_dir / "loss.png", self.rows, "epoch", panels)
        self.tally.summarise(self.ranks)

    def train(self) -> None:
        """Train the rest of the current epoch."""
        for x, y in self.loader:
            self.snapshots.poll(self.state)
            squares = F.mse_loss(self.parallel(x.to(self.ranks.device)), y.to(self.ranks.device), reduction="sum")
            # DDP averages gradients over the ranks. That is the mean over all samples only if all shares have the
            # same size, and the last batch's may not: so take this rank's sum, times the ranks that DDP divides
            # by, over the number of samples in the whole batch.
            loss = squares * self.ranks.world_size / self.batches.now()
            self.optimizer.zero_grad()
            # DDP exchanges the gradients during the backward pass.
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.batches.seen += self.batches.now()
            self.trained += torch.tensor([squares.item(), len(y)])
            self.step += 1

    def finish_epoch(self, samples: int, seconds: float) -> None:
        """Evaluate, report the epoch, and save. ``samples`` were trained in ``seconds`` over all ranks."""
        train_sum, trained, eval_sum, evaluated = self.ranks.sum(torch.cat([self.trained, self.evaluate()]))
        row = {
            "epoch": self.batches.epoch + 1,
            "train_loss": train_sum / trained,
            "eval_loss": eval_sum / evaluated,
            "seconds": seconds,
            "samples_per_second": self.tally.add(samples, seconds),
            "world_size": self.ranks.world_size,
        }
        self.ranks.say(
            f"Epoch {row['epoch']}/{self.options.epochs}  train loss {row['train_loss']:.5f}  "
            f"evaluation loss {row['eval_loss']:.5f}  {seconds:.2f} s  {row['samples_per_second']:.0f} samples/s"
        )
        self.rows.append(row)
        # Begin the next epoch before saving: a run that resumes from this snapshot must not train the old one
        # again.
        self.batches.next_epoch()
        self.trained.zero_()
        self.snapshots.save(self.state())
        if self.ranks.rank == 0:
            write_metrics(self.options.output_dir, self.rows)

    @torch.no_grad()
    def evaluate(self) -> Tensor:
        """Return the sum of squared errors on this rank's share of the evaluation data, and the size of the share.

        Each rank evaluates other samples. Sums, unlike means, add up to the right result even if the shares differ
        in size.
        """
        x, y = (tensor[self.ranks.rank :: self.ranks.world_size] for tensor in self.test_set.tensors)
        predicted: Tensor = self.model(x.to(self.ranks.device)).cpu()
        return torch.tensor([F.mse_loss(predicted, y, reduction="sum").item(), len(y)], dtype=torch.float64)

    def state(self) -> dict[str, Any]:
        """Return everything needed to resume, even in the middle of an epoch."""
        return {
            "workload": "hello-ddp",
            "step": self.step,
            "epoch": self.batches.epoch,
            "seen": self.batches.seen,
            "rows": self.rows,
            "trained": self.trained,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def resume(self) -> None:
        """Continue from the newest snapshot, if there is one."""
        found = self.snapshots.load("hello-ddp")
        if found is None:
            return
        self.model.load_state_dict(found["model"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.step, self.rows, self.trained = found["step"], found["rows"], found["trained"]
        self.batches.epoch, self.batches.seen = found["epoch"], found["seen"]
        self.ranks.say(f"Resuming at epoch {self.batches.epoch + 1} from {self.options.snapshot}")


if __name__ == "__main__":
    main()
