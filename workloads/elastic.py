"""Training that survives the loss of a host: the others meet again and resume from the newest snapshot.

    orch run elastic --nnodes 2:3
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1   # or restarted ranks find the addresses of the ranks before them
    torchrun --nnodes 2:3 --max-restarts 3 --rdzv-backend c10d --rdzv-endpoint HOST:29500 elastic.py

A rank waits at most ``--timeout`` seconds for a rank that is gone, then ends with an error; torchrun starts the
ranks again once at least two hosts have met (c10d). The script relies on no rank's number, because a rank may have
another number afterwards. The first host holds the rendezvous and must not be the one that is lost. Every node
keeps a ``snapshot.pt``; rank 0 writes ``metrics.jsonl`` and ``loss.png``.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
import torch.nn.functional as F
from _ranks import GlobalBatches, Ranks, add_backend, add_learning, counted, parsed, refuse
from _records import Snapshots, Tally, add_records, plot_curves, write_metrics
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

SAMPLES, INPUTS = 3000, 20


def main() -> None:
    """Train on the ranks of this start; raises SystemExit with code 1 if ranks are gone."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument(
        "--step-time", type=float, default=0.1, metavar="SECONDS", help="shortest duration of a step"
    )
    parser.add_argument("--save-every", type=int, default=10, metavar="STEPS")
    add_learning(parser, batch_size=32, lr=0.02)
    parser.add_argument(
        "--timeout", type=float, default=15.0, metavar="SECONDS", help="longest wait for a rank that is gone"
    )
    add_backend(parser)
    add_records(parser)
    options = parsed(parser)
    if options.save_every < 1:
        refuse(f"--save-every {options.save_every}: expected at least 1")
    with Ranks(options.backend, timeout=options.timeout) as ranks:
        training = Training(options, ranks)
        try:
            training.run()
        except RuntimeError as error:
            # A collective fails with RuntimeError. torchrun takes the exit code 1 as a reason to restart the
            # ranks.
            reason = str(error).strip().partition("\n")[0]
            print(f"Rank {ranks.rank} has lost its peers at step {training.step}: {reason[:200]}", flush=True)
            raise SystemExit(1) from None


class Training:
    """One rank's part of the training, between two restarts."""

    def __init__(self, options: argparse.Namespace, ranks: Ranks) -> None:
        self.options, self.ranks = options, ranks
        self.tally = Tally()
        # Samples since the last report, and when that was.
        self.trained, self.reported = 0, self.tally.began
        # Every rank generates all the data, the same on all ranks, and trains on its share.
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(SAMPLES, INPUTS, generator=generator)
        y = x @ torch.rand(INPUTS, 1, generator=generator) + 0.1 * torch.randn(SAMPLES, 1, generator=generator)
        self.batches = GlobalBatches(SAMPLES, options.batch_size * ranks.world_size, ranks, seed=0)
        # No batch_size: the sampler yields whole batches of indices.
        self.loader = DataLoader(TensorDataset(x, y), sampler=self.batches, batch_size=None)
        torch.manual_seed(0)
        self.model = nn.Linear(INPUTS, 1).to(ranks.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=options.lr)
        self.snapshots = Snapshots(options.snapshot, ranks, resume=not options.no_resume)
        self.step = 0
        self.rows: list[dict[str, Any]] = []

    def run(self) -> None:
        """Train the remaining steps, then plot the losses."""
        self.ranks.introduce()
        self.resume()
        # Each start wraps the model anew: DDP serves the group of ranks that exists now.
        parallel = self.ranks.parallel(self.model)
        self.reported = time.monotonic()
        with self.snapshots.guarding(self.state):
            while self.step < self.options.steps:
                self.train(parallel)
                self.batches.next_epoch()
        self.ranks.say(f"Done after {counted(self.step, 'step')} on {counted(self.ranks.world_size, 'rank')}")
        if self.ranks.rank == 0 and self.rows:
            panels = {"Mean squared error": ["loss"], "Samples/s": ["samples_per_second"]}
            plot_curves(self.options.output_dir / "loss.png", self.rows, "step", panels)
        self.tally.summarise(self.ranks)

    def train(self, parallel: nn.Module) -> None:
        """Train the rest of the current epoch, or of the steps."""
        for x, y in self.loader:
            if self.step >= self.options.steps:
                return
            self.snapshots.poll(self.state)
            began = time.monotonic()
            squares = F.mse_loss(parallel(x.to(self.ranks.device)), y.to(self.ranks.device), reduction="sum")
            # The sum, times the ranks that DDP divides by, over the samples of the whole batch: the mean over all
            # samples, however many ranks there are this time.
            loss = squares * self.ranks.world_size / self.batches.now()
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.trained += self.batches.now()
            self.batches.seen += self.batches.now()
            self.step += 1
            if self.step % self.options.save_every == 0 or self.step == self.options.steps:
                self.report(squares.item() / max(1, len(y)))
            # The model is tiny: slower steps leave time to take a host away and watch.
            time.sleep(max(0.0, began + self.options.step_time - time.monotonic()))

    def report(self, loss: float) -> None:
        """Report the loss and save."""
        (total,) = self.ranks.sum(torch.tensor([loss]))
        row = {
            "step": self.step,
            "loss": total / self.ranks.world_size,
            "samples_per_second": self.tally.add(self.trained, time.monotonic() - self.reported),
            "world_size": self.ranks.world_size,
        }
        self.trained, self.reported = 0, time.monotonic()
        self.rows.append(row)
        self.ranks.say(
            f"Step {self.step}/{self.options.steps}  loss {row['loss']:.4f}  world size {self.ranks.world_size}"
        )
        self.snapshots.save(self.state())
        if self.ranks.rank == 0:
            write_metrics(self.options.output_dir, self.rows)

    def state(self) -> dict[str, Any]:
        """Return everything needed to resume, even in the middle of an epoch."""
        return {
            "workload": "elastic",
            "step": self.step,
            "epoch": self.batches.epoch,
            "seen": self.batches.seen,
            "rows": self.rows,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def resume(self) -> None:
        """Continue from the newest snapshot of all ranks, if there is one."""
        found = self.snapshots.load("elastic")
        if found is None:
            return
        self.model.load_state_dict(found["model"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.step, self.rows = found["step"], found["rows"]
        self.batches.epoch, self.batches.seen = found["epoch"], found["seen"]
        self.ranks.say(f"Resuming at step {self.step} from {self.options.snapshot}")


if __name__ == "__main__":
    main()
