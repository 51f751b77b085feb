"""Train an image classifier with DistributedDataParallel, on MNIST or scikit-learn's handwritten digits.

Runs under ``orch run train``, under plain ``torchrun``, and as a single process. Every node keeps a
``snapshot.pt``; rank 0 writes ``metrics.jsonl`` (one line for each epoch) and ``loss.png``.
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
from _ranks import GlobalBatches, Ranks, add_backend, add_learning, counted, parsed, refuse
from _records import Snapshots, Tally, add_records, plot_curves, write_metrics
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

# orch reads this without importing the file, and brings MNIST to the nodes that lack it (docs/workloads.md).
NEEDS_DATA = [{"data": "mnist", "folder": "--data-dir", "unless": ["--dataset=digits", "--download"]}]
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
        """Return the logits of a batch of images."""
        x = F.max_pool2d(F.relu(self.first(images)), 2)
        x = F.max_pool2d(F.relu(self.second(x)), 2)
        return self.out(F.relu(self.hidden(x.flatten(1))))  # type: ignore[no-any-return]


def main() -> None:
    """Train on all ranks."""
    options = parse_options()
    ranks = Ranks(options.backend)
    check(options, ranks)
    train_set, test_set = load(options)
    with ranks:
        Training(options, ranks, train_set, test_set).run()


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", choices=sorted(EPOCHS), default="mnist")
    parser.add_argument(
        "--data-dir",
        type=Path,
        help="folder with MNIST/raw as torchvision lays it out; default $ORCH_DATA, set by orch, or data",
    )
    parser.add_argument("--download", action="store_true", help="let torchvision download MNIST to --data-dir")
    parser.add_argument("--epochs", type=int, help="default 3 for MNIST, 20 for digits")
    add_learning(
        parser,
        batch_size=64,
        lr=None,
        batch="samples per rank and accumulated step",
        rate="default 0.001 for MNIST, 0.003 for digits",
    )
    parser.add_argument("--accumulate", type=int, default=1, metavar="N", help="steps per update")
    parser.add_argument(
        "--precision",
        choices=sorted(PRECISIONS),
        default="float32",
        help="number format of the forward pass; float16 needs a GPU",
    )
    parser.add_argument(
        "--compile",
        nargs="?",
        const="inductor",
        metavar="BACKEND",
        help="compile the model with torch.compile; default backend inductor",
    )
    parser.add_argument("--seed", type=int, default=0)
    add_backend(parser)
    add_records(parser)
    options = parsed(parser)
    options.epochs = EPOCHS[options.dataset] if options.epochs is None else options.epochs
    options.lr = LEARNING_RATE[options.dataset] if options.lr is None else options.lr
    return options


def check(options: argparse.Namespace, ranks: Ranks) -> None:
    """End the process if the options do not suit this node."""
    if options.accumulate < 1:
        refuse(f"--accumulate {options.accumulate}: expected at least 1")
    if options.precision == "float16" and ranks.device.type == "cpu":
        refuse("--precision float16 needs a GPU: pass bfloat16 or float32")
    compiler = os.environ.get("CXX", "g++")
    if options.compile == "inductor" and ranks.device.type == "cpu" and not shutil.which(compiler):
        refuse(
            f"--compile needs the C++ compiler {compiler}, which is not on this node: install it or omit --compile"
        )
    if options.compile and options.compile not in torch.compiler.list_backends(exclude_tags=()):
        refuse(f"--compile {options.compile}: expected one of {', '.join(torch.compiler.list_backends())}")


def load(options: argparse.Namespace) -> tuple[TensorDataset, TensorDataset]:
    """Return the training and test sets: float images ``(n, 1, side, side)`` and labels.

    Ends the process with a line if the data are not on this node.
    """
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

        # Download to the folder that stays for later runs. The ranks of a node share it: the first one downloads,
        # the others wait for the lock and find the files.
        folder = options.data_dir or Path(os.environ.get("ORCH_DATA", "data"))
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".download.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            MNIST(folder, download=True)
    raw = folder / "MNIST" / "raw"
    return mnist(raw, "train"), mnist(raw, "t10k")


def data_dir() -> Path:
    """Return the folder where orch puts data on this node if MNIST is in it, else ``data``."""
    sent = Path(os.environ.get("ORCH_DATA", "data"))
    return sent if (sent / "MNIST" / "raw").is_dir() else Path("data")


def mnist(raw: Path, part: str) -> TensorDataset:
    """Return one part of MNIST from torchvision's folder, which may be read-only and hold only the ``.gz`` files.

    Pixels are normalised with the mean and standard deviation of MNIST's training images.
    """
    images = read_idx(raw / f"{part}-images-idx3-ubyte").unsqueeze(1).float().div_(255)
    return TensorDataset(images.sub_(0.1307).div_(0.3081), read_idx(raw / f"{part}-labels-idx1-ubyte").long())


def read_idx(path: Path) -> Tensor:
    """Read a file of unsigned bytes in MNIST's format.

    It has two zero bytes, the type (8), the number of dimensions, the size of each as a big-endian integer, and
    the bytes. Ends the process with a line if the file is not there or has another format.
    """
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
        refuse(f"{path} is not a file in MNIST's format")
    return torch.frombuffer(bytearray(data[4 + 4 * rank :]), dtype=torch.uint8).reshape(sizes)


class Training:
    """One rank's part of the training."""

    def __init__(
        self, options: argparse.Namespace, ranks: Ranks, train_set: TensorDataset, test_set: TensorDataset
    ) -> None:
        self.options, self.ranks, self.test_set = options, ranks, test_set
        self.tally = Tally()
        # The same first parameters on all ranks, and on any number of ranks.
        torch.manual_seed(options.seed)
        size = options.batch_size * options.accumulate * ranks.world_size
        self.batches = GlobalBatches(len(train_set), size, ranks, options.seed)
        # No batch_size: the sampler yields whole batches of indices.
        self.loader = DataLoader(train_set, sampler=self.batches, batch_size=None)
        self.model = Classifier(train_set.tensors[0].shape[-1]).to(ranks.device)
        # Convolutions are twice as fast on a CPU in this memory layout, and tensor cores work in it.
        self.model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=options.lr)
        self.precision = PRECISIONS[options.precision]
        # Small gradients become zero in float16 unless they are scaled up. bfloat16 has the exponents of float32
        # and needs no scaling.
        self.scaler = torch.amp.GradScaler(ranks.device.type, enabled=options.precision == "float16")
        self.snapshots = Snapshots(options.snapshot, ranks, resume=not options.no_resume)
        self.step = 0
        # Sum of losses and number of samples of this epoch, on this rank.
        self.trained = torch.zeros(2, dtype=torch.float64)
        self.rows: list[dict[str, Any]] = []
        self.resume()
        # Train with the wrapped model, and save the inner one: names of the wrapped model's parameters begin with
        # "module.", so its snapshots would not fit a single process.
        self.parallel = ranks.parallel(self.model)
        if options.compile:
            self.parallel = torch.compile(self.parallel, backend=options.compile)  # type: ignore[assignment]

    def run(self) -> None:
        """Train the remaining epochs, then print the result and plot the metrics."""
        self.ranks.introduce()
        if self.batches.epoch >= self.options.epochs:
            self.ranks.say(f"Already trained for {counted(self.batches.epoch, 'epoch')}")
        with self.snapshots.guarding(self.state):
            while self.batches.epoch < self.options.epochs:
                began, first = time.monotonic(), self.batches.seen
                self.train()
                self.finish_epoch(self.batches.samples - first, time.monotonic() - began)
        self.ranks.say(
            f"Test accuracy {self.rows[-1]['test_accuracy']:.4f}" if self.rows else "No epochs to train"
        )
        self.ranks.compare(self.model)
        if self.ranks.rank == 0 and self.rows:
            panels = {
                "Cross entropy": ["train_loss", "test_loss"],
                "Accuracy": ["test_accuracy"],
                "Samples/s": ["samples_per_second"],
            }
            plot_curves(self.options.output_dir / "loss.png", self.rows, "epoch", panels)
        self.tally.summarise(self.ranks)

    def train(self) -> None:
        """Train the rest of the current epoch."""
        self.parallel.train()
        for images, labels in self.loader:
            self.snapshots.poll(self.state)
            self.update(images, labels)
            self.batches.seen += self.batches.now()
            self.step += 1

    def update(self, images: Tensor, labels: Tensor) -> None:
        """Make one update from this rank's share of a batch, in ``--accumulate`` pieces.

        Gradients add up over the pieces, so the update is that of the whole batch, with the memory for one piece.
        """
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
                # DDP averages gradients over the ranks, whose shares of the last batch may differ in size. This
                # rank's sum, times the ranks that DDP divides by, over the samples of the whole batch gives the
                # mean over all samples.
                self.scaler.scale(loss * self.ranks.world_size / self.batches.now()).backward()  # type: ignore[no-untyped-call]
            self.trained += torch.tensor([loss.item(), len(label_piece)])
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def gathering_only(self, wanted: bool) -> Any:
        """Return a context in which, if ``wanted``, gradients add up on this rank without an exchange.

        Only the backward pass of the last piece has to exchange them; each exchange saved is one all-reduce.
        """
        # torch.compile keeps the model that it wraps in _orig_mod.
        module = getattr(self.parallel, "_orig_mod", self.parallel)
        return module.no_sync() if wanted and isinstance(module, DistributedDataParallel) else nullcontext()

    def finish_epoch(self, samples: int, seconds: float) -> None:
        """Evaluate, report the epoch, and save. ``samples`` were trained in ``seconds`` over all ranks."""
        sums = self.ranks.sum(torch.cat([self.trained, self.evaluate()]))
        train_sum, trained, test_sum, correct, tested = sums
        row = {
            "epoch": self.batches.epoch + 1,
            "train_loss": train_sum / trained,
            "test_loss": test_sum / tested,
            "test_accuracy": correct / tested,
            "seconds": seconds,
            "samples_per_second": self.tally.add(samples, seconds),
            "world_size": self.ranks.world_size,
        }
        self.ranks.say(
            f"Epoch {row['epoch']}/{self.options.epochs}  train loss {row['train_loss']:.4f}  "
            f"test loss {row['test_loss']:.4f}  test accuracy {row['test_accuracy']:.4f}  "
            f"{seconds:.1f} s  {row['samples_per_second']:.0f} samples/s"
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
        """Return the sum of losses, correct answers and samples of this rank's share of the test set."""
        self.model.eval()
        images, labels = (tensor[self.ranks.rank :: self.ranks.world_size] for tensor in self.test_set.tensors)
        total = torch.zeros(3, dtype=torch.float64)
        for image_batch, label_batch in zip(torch.split(images, 1000), torch.split(labels, 1000)):
            logits = self.model(image_batch.to(self.ranks.device)).cpu()
            loss = F.cross_entropy(logits, label_batch, reduction="sum").item()
            total += torch.tensor([loss, (logits.argmax(1) == label_batch).sum().item(), len(label_batch)])
        return total

    def state(self) -> dict[str, Any]:
        """Return everything needed to resume, even in the middle of an epoch."""
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
        """Continue from the newest snapshot, if there is one."""
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
