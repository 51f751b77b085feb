"""The first thing to run: fit a straight line to generated data, in one process, on a GPU if there is one.

Rank 0 writes ``metrics.jsonl`` (one line for each epoch) and ``fit.png``. Under ``orch run hello`` every rank fits
the same line by itself, which shows that each node works; in ``hello-ddp`` the ranks train together.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from _ranks import Ranks, add_backend, add_learning, parsed, this_node
from _records import Tally, write_metrics
from torch import Tensor, nn

SLOPE, INTERCEPT, NOISE = 2.0, -1.0, 0.3


def main() -> None:
    """Generate the data, fit the line, report and plot the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=100)
    add_learning(parser, batch_size=None, lr=0.1, batch="points per step; default all of them")
    parser.add_argument("--data-size", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    add_backend(parser)
    parser.add_argument("--output-dir", type=Path, default=Path(), help="folder for metrics.jsonl and fit.png")
    options = parsed(parser)
    ranks, tally = Ranks(options.backend), Tally()
    # The same seed on every rank: all of them fit the same points, from the same first guess.
    torch.manual_seed(options.seed)
    x = torch.linspace(-2, 2, options.data_size).unsqueeze(1)
    y = SLOPE * x + INTERCEPT + NOISE * torch.randn_like(x)
    model = nn.Linear(1, 1).to(ranks.device)
    ranks.say(f"Fitting {options.data_size} points of y = {SLOPE} x + {INTERCEPT} with noise {NOISE}")
    began = time.monotonic()
    size = options.batch_size or options.data_size
    losses = fit(model, x.to(ranks.device), y.to(ranks.device), options.epochs, size, options.lr)
    tally.add(options.epochs * options.data_size, time.monotonic() - began)
    slope, intercept = model.weight.item(), model.bias.item()
    print(
        f"Rank {ranks.rank} on {this_node()} ({ranks.device.type}): loss {losses[0]:.3f} to {losses[-1]:.3f}, "
        f"found y = {slope:.2f} x + {intercept:.2f}",
        flush=True,
    )
    if ranks.rank == 0:
        write_metrics(options.output_dir, [{"epoch": n, "loss": loss} for n, loss in enumerate(losses, 1)])
        plot(options.output_dir / "fit.png", x, y, slope, intercept)
    tally.summarise(ranks)


def fit(model: nn.Module, x: Tensor, y: Tensor, epochs: int, size: int, lr: float) -> list[float]:
    """Train on ``size`` points at a time; return the mean squared error of each epoch.

    The first four lines of the inner loop are a training step in PyTorch: predict and compare, clear the old
    gradients, compute new ones, change the parameters.
    """
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for some_x, some_y in zip(torch.split(x, size), torch.split(y, size)):
            loss = nn.functional.mse_loss(model(some_x), some_y)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(some_x)
        losses.append(total / len(x))
    return losses


def plot(path: Path, x: Tensor, y: Tensor, slope: float, intercept: float) -> None:
    """Plot the points and the fitted line."""
    import matplotlib

    # Nodes have no screen.
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.5), layout="constrained")
    axes.scatter(x.flatten().tolist(), y.flatten().tolist(), s=8, alpha=0.6, label="data")
    ends = [float(x.min()), float(x.max())]
    axes.plot(ends, [slope * end + intercept for end in ends], color="tab:red", label="fit")
    axes.set(xlabel="x", ylabel="y", title=f"y = {slope:.2f} x + {intercept:.2f}")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
