"""Train an image classifier with DistributedDataParallel, on MNIST or scikit-learn's handwritten digits.

Runs under ``orch run train``, under plain ``torchrun``, and as a single process. Every node keeps a
``snapshot.pt``; rank 0 writes ``metrics.jsonl`` (one line an epoch) and ``loss.png``.
"""

from __future__ import annotations

import argparse
import fcntl
import gzip
import os
import shutil
import struct
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _ranks import GlobalBatches, Ranks, add_backend, refuse
from _records import Snapshots, add_records, plot_curves, write_metrics
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

EPOCHS = {"mnist": 3, "digits": 20}
LEARNING_RATE = {"mnist": 1e-3, "digits": 3e-3}
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Classifier(nn.Module):
    """Two convolutions and two linear layers. Input ``(batch, 1, side, side)``, output ``(batch, 10)`` logits."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 32, 3, padding=1)
        self.hidden = nn.Linear(32 * (side // 4) ** 2, 64)
        self.out = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of images."""
        x = F.max_pool2d(F.relu(self.first(images)), 2)
        x = F.max_pool2d(F.relu(self.second(x)), 2)
        return self.out(F.relu(self.hidden(x.flatten(1))))  # type: ignore[no-any-return]


def main() -> None:
    """Train on the ranks that there are."""
    options = parse_options()
    ranks = Ranks(options.backend)
    check(options, ranks)
    train_set, test_set = load(options)
    with ranks:
        Training(options, ranks, train_set, test_set).run()


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", choices=sorted(EPOCHS), default="mnist")
    parser.add_argument(
        "--data-dir",
        type=Path,
        help="holds MNIST/raw, as torchvision has it; else $ORCH_DATA, where orch sync --data puts it, or data",
    )
    parser.add_argument("--download", action="store_true", help="let torchvision download MNIST to --data-dir")
    parser.add_argument("--epochs", type=int, help="3 for MNIST, 20 for digits")
    parser.add_argument("--batch-size", type=int, default=64, help="per rank, and per step of --accumulate")
    parser.add_argument("--accumulate", type=int, default=1, metavar="N", help="steps that share one update")
    parser.add_argument("--lr", type=float, help="0.001 for MNIST, 0.003 for digits")
    parser.add_argument(
        "--precision",
        choices=sorted(PRECISIONS),
        default="float32",
        help="of the forward pass; float16 on GPUs only",
    )
    parser.add_argument(
        "--compile",
        nargs="?",
        const="inductor",
        metavar="BACKEND",
        help="compile the model with torch.compile; inductor unless another backend is named",
    )
    parser.add_argument("--seed", type=int, default=0)
    add_backend(parser)
    add_records(parser)
    options = parser.parse_args()
    options.epochs = EPOCHS[options.dataset] if options.epochs is None else options.epochs
    options.lr = LEARNING_RATE[options.dataset] if options.lr is None else options.lr
    return options


def check(options: argparse.Namespace, ranks: Ranks) -> None:
    """Refuse what cannot work here."""
    for name in ("batch_size", "accumulate"):
        if getattr(options, name) < 1:
            refuse(f"--{name.replace('_', '-')} {getattr(options, name)}: expected a number from 1 on")
    if options.precision == "float16" and ranks.device.type == "cpu":
        refuse("--precision float16 needs a GPU: pass bfloat16 or float32")
    compiler = os.environ.get("CXX", "g++")
    if options.compile == "inductor" and ranks.device.type == "cpu" and not shutil.which(compiler):
        refuse(
            f"--compile needs the C++ compiler {compiler}, which is not here: install it, or leave --compile out"
        )
    if options.compile and options.compile not in torch.compiler.list_backends(exclude_tags=()):
        refuse(f"--compile {options.compile}: expected one of {', '.join(torch.compiler.list_backends())}")


def load(options: argparse.Namespace) -> tuple[TensorDataset, TensorDataset]:
    """Training and test set as float images ``(n, 1, side, side)`` and labels; ends if they are not there."""
    if options.dataset == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        labels = torch.tensor(digits.target)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        train, test = order[:1437], order[1437:]
        return TensorDataset(images[train], labels[train]), TensorDataset(images[test], labels[test])
    folder = options.data_dir or data_dir()
    if options.download:
        from torchvision.datasets import MNIST

        # Where it stays for later runs. Ranks of one node share the folder: the first fetches, the others find it.
        folder = options.data_dir or Path(os.environ.get("ORCH_DATA", "data"))
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".download.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            MNIST(folder, download=True)
    raw = folder / "MNIST" / "raw"
    return mnist(raw, "train"), mnist(raw, "t10k")


def data_dir() -> Path:
    """Where orch has put the data on this node, if they are there; else ``data``."""
    sent = Path(os.environ.get("ORCH_DATA", "data"))
    return sent if (sent / "MNIST" / "raw").is_dir() else Path("data")


def mnist(raw: Path, part: str) -> TensorDataset:
    """A part of MNIST from torchvision's folder, which may be read-only and hold only the ``.gz`` files."""
    images = read_idx(raw / f"{part}-images-idx3-ubyte").unsqueeze(1).float().div_(255)
    return TensorDataset(images.sub_(0.1307).div_(0.3081), read_idx(raw / f"{part}-labels-idx1-ubyte").long())


def read_idx(path: Path) -> Tensor:
    """A file of unsigned bytes in MNIST's format: magic 8 and rank, big-endian sizes, then the bytes."""
    packed = path.with_name(path.name + ".gz")
    if path.exists():
        data = path.read_bytes()
    elif packed.exists():
        data = gzip.decompress(packed.read_bytes())
    else:
        refuse(
            f"MNIST is not in {path.parent}: send it with orch sync --data mnist, or name a folder that has it "
            "with --data-dir (--dataset digits needs no data)"
        )
    _, kind, rank = struct.unpack_from(">HBB", data)
    sizes = struct.unpack_from(f">{rank}I", data, 4)
    if kind != 8:
        refuse(f"{path} is not a file of MNIST")
    return torch.frombuffer(bytearray(data[4 + 4 * rank :]), dtype=torch.uint8).reshape(sizes)


class Training:
    """One rank's part of a training run."""

    def __init__(
        self, options: argparse.Namespace, ranks: Ranks, train_set: TensorDataset, test_set: TensorDataset
    ) -> None:
        self.options, self.ranks, self.test_set = options, ranks, test_set
        torch.manual_seed(options.seed)
        size = options.batch_size * options.accumulate * ranks.world_size
        self.batches = GlobalBatches(len(train_set), size, ranks, options.seed)
        self.loader = DataLoader(train_set, sampler=self.batches, batch_size=None)
        # Twice as fast on a CPU, and what tensor cores like.
        self.model = Classifier(train_set.tensors[0].shape[-1]).to(ranks.device)
        self.model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=options.lr)
        self.precision = PRECISIONS[options.precision]
        # Gradients in float16 vanish unless they are scaled up; the other types have float32's exponents.
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=options.precision == "float16")
        self.snapshots = Snapshots(options.snapshot, ranks, resume=not options.no_resume)
        self.step = 0
        # Sum of losses and number of samples of this epoch.
        self.trained = torch.zeros(2, dtype=torch.float64)
        self.rows: list[dict[str, Any]] = []
        self.resume()
        self.parallel = ranks.parallel(self.model)
        if options.compile:
            self.parallel = torch.compile(self.parallel, backend=options.compile)  # type: ignore[assignment]

    def run(self) -> None:
        """All epochs that are left, then the result and the plot."""
        self.ranks.introduce()
        if self.batches.epoch >= self.options.epochs:
            self.ranks.say(f"Trained for {self.batches.epoch} epochs already")
        with self.snapshots.guarding(self.state):
            while self.batches.epoch < self.options.epochs:
                began, first = time.monotonic(), self.batches.seen
                self.train()
                self.finish_epoch(self.batches.samples - first, time.monotonic() - began)
        self.ranks.say(
            f"Test accuracy {self.rows[-1]['test_accuracy']:.4f}" if self.rows else "No epoch was asked for"
        )
        self.ranks.compare(self.model)
        if self.ranks.rank == 0 and self.rows:
            panels = {"Cross entropy": ["train_loss", "test_loss"], "Accuracy": ["test_accuracy"]}
            plot_curves(self.options.output_dir / "loss.png", self.rows, "epoch", panels)

    def train(self) -> None:
        """What is left of an epoch."""
        self.parallel.train()
        for images, labels in self.loader:
            self.snapshots.poll(self.state)
            self.update(images, labels)
            self.batches.seen += self.batches.now()
            self.step += 1

    def update(self, images: Tensor, labels: Tensor) -> None:
        """One update from this rank's share of a batch, in ``--accumulate`` pieces."""
        pieces = self.options.accumulate
        self.optimizer.zero_grad()
        for number, (image_piece, label_piece) in enumerate(
            zip(images.tensor_split(pieces), labels.tensor_split(pieces)), 1
        ):
            with self.gathering_only(number < pieces):
                with torch.autocast(
                    self.ranks.device.type, self.precision, enabled=self.precision != torch.float32
                ):
                    logits = self.parallel(image_piece.to(self.ranks.device))
                    loss = F.cross_entropy(logits, label_piece.to(self.ranks.device), reduction="sum")
                # DDP takes the mean over ranks; this makes it the mean over the samples of the whole batch.
                self.scaler.scale(loss * self.ranks.world_size / self.batches.now()).backward()  # type: ignore[no-untyped-call]
            self.trained += torch.tensor([loss.item(), len(label_piece)])
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def gathering_only(self, wanted: bool) -> Any:
        """Within it, gradients add up on this rank, and no other is told of them."""
        module = getattr(self.parallel, "_orig_mod", self.parallel)
        return module.no_sync() if wanted and isinstance(module, DistributedDataParallel) else nullcontext()

    def finish_epoch(self, samples: int, seconds: float) -> None:
        """Evaluate, say what came out, keep it."""
        sums = self.ranks.sum(torch.cat([self.trained, self.evaluate()]))
        train_sum, trained, test_sum, correct, tested = sums
        row = {
            "epoch": self.batches.epoch + 1,
            "train_loss": train_sum / trained,
            "test_loss": test_sum / tested,
            "test_accuracy": correct / tested,
            "seconds": seconds,
            "samples_per_second": samples / seconds,
            "world_size": self.ranks.world_size,
        }
        self.ranks.say(
            f"Epoch {row['epoch']}/{self.options.epochs}  train loss {row['train_loss']:.4f}  "
            f"test loss {row['test_loss']:.4f}  test accuracy {row['test_accuracy']:.4f}  "
            f"{seconds:.1f} s  {row['samples_per_second']:.0f} samples/s"
        )
        self.rows.append(row)
        self.batches.next_epoch()
        self.trained.zero_()
        self.snapshots.save(self.state())
        if self.ranks.rank == 0:
            write_metrics(self.options.output_dir, self.rows)

    @torch.no_grad()
    def evaluate(self) -> Tensor:
        """Sum of losses, right answers and number of samples of this rank's share of the test set."""
        self.model.eval()
        images, labels = (tensor[self.ranks.rank :: self.ranks.world_size] for tensor in self.test_set.tensors)
        total = torch.zeros(3, dtype=torch.float64)
        for image_batch, label_batch in zip(torch.split(images, 1000), torch.split(labels, 1000)):
            logits = self.model(image_batch.to(self.ranks.device)).cpu()
            loss = F.cross_entropy(logits, label_batch, reduction="sum").item()
            total += torch.tensor([loss, (logits.argmax(1) == label_batch).sum().item(), len(label_batch)])
        return total

    def state(self) -> dict[str, Any]:
        """All that is needed to go on, also from the middle of an epoch."""
        return {
            "workload": f"train on {self.options.dataset}",
            "step": self.step,
            "epoch": self.batches.epoch,
            "seen": self.batches.seen,
            "rows": self.rows,
            "trained": self.trained,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def resume(self) -> None:
        """Go on where the newest snapshot ends, if there is one."""
        found = self.snapshots.load(self.state()["workload"])
        if found is None:
            return
        self.model.load_state_dict(found["model"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.scaler.load_state_dict(found["scaler"])
        self.step, self.rows, self.trained = found["step"], found["rows"], found["trained"]
        self.batches.epoch, self.batches.seen = found["epoch"], found["seen"]
        self.ranks.say(f"Resuming from epoch {self.batches.epoch} of {self.options.snapshot}")


if __name__ == "__main__":
    main()
