"""Train an image classifier with DistributedDataParallel, on MNIST or scikit-learn's handwritten digits.

Runs under ``orch run train``, under plain ``torchrun``, and as a single process. Every node keeps a
``snapshot.pt``; rank 0 writes ``metrics.jsonl`` (one line an epoch) and ``loss.png``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

EPOCHS = {"mnist": 3, "digits": 20}
LEARNING_RATE = {"mnist": 1e-3, "digits": 3e-3}


class Unusable(Exception):
    """A setting that cannot be used; the message is one line for the user."""


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


def main() -> int:
    """Train, evaluate, write what was learnt; returns the exit code."""
    options = parse_options()
    rank = int(os.environ.get("RANK", "0"))
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    try:
        train_set, test_set = load(options)
    except Unusable as error:
        if rank == 0:
            print(f"train: {error}", file=sys.stderr)
        return 2
    backend, device = choose_backend(options.backend)
    if world_size > 1:
        dist.init_process_group(backend)
    try:
        Training(options, rank, world_size, device, train_set, test_set).run(backend)
    except Unusable as error:
        if rank == 0:
            print(f"train: {error}", file=sys.stderr)
        return 2
    finally:
        if world_size > 1:
            dist.destroy_process_group()
    return 0


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", choices=sorted(EPOCHS), default="mnist")
    parser.add_argument(
        "--data-dir", type=Path, default=Path("data"), help="holds MNIST/raw, as torchvision has it"
    )
    parser.add_argument("--download", action="store_true", help="let torchvision download MNIST to --data-dir")
    parser.add_argument("--epochs", type=int, help="3 for MNIST, 20 for digits")
    parser.add_argument("--batch-size", type=int, default=64, help="per rank")
    parser.add_argument("--lr", type=float, help="0.001 for MNIST, 0.003 for digits")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--backend", choices=["auto", "nccl", "gloo"], default=os.environ.get("ORCH_BACKEND", "auto")
    )
    parser.add_argument("--snapshot", type=Path, default=Path("snapshot.pt"))
    parser.add_argument("--no-resume", action="store_true", help="begin anew even if there is a snapshot")
    parser.add_argument("--output-dir", type=Path, default=Path(), help="for metrics.jsonl and loss.png")
    options = parser.parse_args()
    options.epochs = EPOCHS[options.dataset] if options.epochs is None else options.epochs
    options.lr = LEARNING_RATE[options.dataset] if options.lr is None else options.lr
    return options


def choose_backend(wanted: str) -> tuple[str, torch.device]:
    """nccl and this rank's GPU where there is one, else gloo and the CPU."""
    if wanted == "nccl" or (wanted == "auto" and torch.cuda.is_available()):
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
        return "nccl", device
    return "gloo", torch.device("cpu")


def load(options: argparse.Namespace) -> tuple[TensorDataset, TensorDataset]:
    """Training and test set as float images ``(n, 1, side, side)`` and labels; raises Unusable."""
    if options.dataset == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        labels = torch.tensor(digits.target)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        train, test = order[:1437], order[1437:]
        return TensorDataset(images[train], labels[train]), TensorDataset(images[test], labels[test])
    if options.download:
        from torchvision.datasets import MNIST

        # Ranks of one node share the folder; two must not download into it at once.
        if int(os.environ.get("LOCAL_RANK", "0")) == 0:
            MNIST(options.data_dir, download=True)
    raw = options.data_dir / "MNIST" / "raw"
    return mnist(raw, "train"), mnist(raw, "t10k")


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
        raise Unusable(f"MNIST not found in {path.parent}: pass --data-dir DIR, --download, or --dataset digits")
    _, kind, rank = struct.unpack_from(">HBB", data)
    sizes = struct.unpack_from(f">{rank}I", data, 4)
    if kind != 8:
        raise Unusable(f"{path} is not a file of MNIST")
    return torch.frombuffer(bytearray(data[4 + 4 * rank :]), dtype=torch.uint8).reshape(sizes)


class Training:
    """One rank's part of a training run."""

    def __init__(
        self,
        options: argparse.Namespace,
        rank: int,
        world_size: int,
        device: torch.device,
        train_set: TensorDataset,
        test_set: TensorDataset,
    ) -> None:
        self.options = options
        self.rank = rank
        self.world_size = world_size
        self.device = device
        self.test_set = test_set
        torch.manual_seed(options.seed)
        self.sampler: DistributedSampler[Any] = DistributedSampler(
            train_set, num_replicas=world_size, rank=rank, shuffle=True, seed=options.seed
        )
        self.loader = DataLoader(train_set, batch_size=options.batch_size, sampler=self.sampler)
        # Twice as fast on a CPU, and what tensor cores like.
        self.model = Classifier(train_set.tensors[0].shape[-1]).to(device)
        self.model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=options.lr)
        self.first_epoch = self.resume()
        self.parallel: nn.Module = self.model
        if world_size > 1:
            self.parallel = DistributedDataParallel(
                self.model, device_ids=[device] if device.type == "cuda" else None
            )

    def run(self, backend: str) -> None:
        """All epochs that are left, then the result and the plot."""
        self.say(f"World size {self.world_size} on {self.where()} ({backend}, {self.device.type})")
        if self.rank:
            print(f"Rank {self.rank} of {self.world_size} is on {this_node()}", flush=True)
        epochs = self.options.epochs
        if self.first_epoch:
            self.say(f"Resuming from epoch {self.first_epoch} of {self.options.snapshot}")
        accuracy = None
        for epoch in range(self.first_epoch, epochs):
            began = time.monotonic()
            train_loss, samples = self.train(epoch)
            seconds = time.monotonic() - began
            test_loss, accuracy = self.evaluate()
            metrics = {
                "epoch": epoch + 1,
                "train_loss": train_loss,
                "test_loss": test_loss,
                "test_accuracy": accuracy,
                "seconds": seconds,
                "samples_per_second": samples / seconds,
                "world_size": self.world_size,
            }
            self.say(
                f"Epoch {epoch + 1}/{epochs}  train loss {train_loss:.4f}  test loss {test_loss:.4f}  "
                f"test accuracy {accuracy:.4f}  {seconds:.1f} s  {samples / seconds:.0f} samples/s"
            )
            self.save(epoch + 1, metrics)
        if accuracy is None:
            self.say(f"Trained for {self.first_epoch} epochs already")
            _, accuracy = self.evaluate()
        self.say(f"Test accuracy {accuracy:.4f}")
        if self.rank == 0:
            plot(self.options.output_dir)

    def train(self, epoch: int) -> tuple[float, int]:
        """One epoch; the mean loss and the number of samples over all ranks."""
        self.sampler.set_epoch(epoch)
        self.parallel.train()
        total = torch.zeros(2, dtype=torch.float64)
        for images, labels in self.loader:
            loss = F.cross_entropy(self.parallel(images.to(self.device)), labels.to(self.device))
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            total += torch.tensor([loss.item() * len(labels), len(labels)])
        loss_sum, samples = self.summed(total)
        return loss_sum / samples, int(samples)

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        """Loss and accuracy on the whole test set, of which every rank takes its share, none twice."""
        self.model.eval()
        images, labels = (tensor[self.rank :: self.world_size] for tensor in self.test_set.tensors)
        total = torch.zeros(3, dtype=torch.float64)
        for first in range(0, len(labels), 1000):
            image_batch, label_batch = images[first : first + 1000], labels[first : first + 1000]
            logits = self.model(image_batch.to(self.device)).cpu()
            loss = F.cross_entropy(logits, label_batch, reduction="sum").item()
            total += torch.tensor([loss, (logits.argmax(1) == label_batch).sum().item(), len(label_batch)])
        loss_sum, correct, count = self.summed(total)
        return loss_sum / count, correct / count

    def summed(self, values: Tensor) -> list[float]:
        """The sum of each value over all ranks."""
        if self.world_size > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
        return [float(value) for value in values]

    def where(self) -> str:
        """The nodes of all ranks, in rank order, each once."""
        names: list[str | None] = [None] * self.world_size
        if self.world_size == 1:
            return this_node()
        dist.all_gather_object(names, this_node())
        return ", ".join(dict.fromkeys(str(name) for name in names))

    def say(self, text: str) -> None:
        """A line from rank 0."""
        if self.rank == 0:
            print(text, flush=True)

    def resume(self) -> int:
        """Load rank 0's snapshot on every rank, so that all begin alike; returns the epochs done."""
        state: list[dict[str, Any] | None] = [None]
        path: Path = self.options.snapshot
        if self.rank == 0 and path.exists() and not self.options.no_resume:
            state = [torch.load(path, map_location="cpu", weights_only=True)]
        if self.world_size > 1:
            dist.broadcast_object_list(state, src=0)
        found = state[0]
        if found is None:
            return 0
        if found["dataset"] != self.options.dataset:
            raise Unusable(f"{path} was trained on {found['dataset']}: pass --no-resume or another --snapshot")
        self.model.load_state_dict(found["model"])
        self.optimizer.load_state_dict(found["optimizer"])
        return int(found["epoch"])

    def save(self, epoch: int, metrics: dict[str, float]) -> None:
        """A snapshot on every node, and the metrics from rank 0."""
        if int(os.environ.get("LOCAL_RANK", "0")) == 0:
            state = {
                "epoch": epoch,
                "dataset": self.options.dataset,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
            }
            write_atomically(self.options.snapshot, state)
        if self.rank == 0:
            self.options.output_dir.mkdir(parents=True, exist_ok=True)
            with (self.options.output_dir / "metrics.jsonl").open("a" if epoch > 1 else "w") as file:
                file.write(json.dumps(metrics) + "\n")


def this_node() -> str:
    """This node's name: as orch calls it, or as it calls itself."""
    return os.environ.get("ORCH_NODE") or socket.gethostname()


def write_atomically(path: Path, state: dict[str, Any]) -> None:
    """A file that is whole or not there, whenever the power goes."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def plot(folder: Path) -> None:
    """``loss.png`` from ``metrics.jsonl``, so that a resumed run shows its whole curve."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    file = folder / "metrics.jsonl"
    if not file.exists():
        return
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    epochs = [row["epoch"] for row in rows]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.plot(epochs, [row["train_loss"] for row in rows], label="train", marker=".")
    left.plot(epochs, [row["test_loss"] for row in rows], label="test", marker=".")
    left.set(xlabel="epoch", ylabel="cross entropy", title="Loss")
    left.legend()
    right.plot(epochs, [row["test_accuracy"] for row in rows], color="tab:green", marker=".")
    right.set(xlabel="epoch", ylabel="share of test images", title="Test accuracy")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(folder / "loss.png", dpi=120)


if __name__ == "__main__":
    sys.exit(main())
