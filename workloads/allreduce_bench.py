"""Measure how fast the ranks exchange data: all-reduce, broadcast and all-gather, from 1 KB to 256 MB.

Bandwidths are defined as in NCCL's tests (NVIDIA/nccl-tests, doc/PERFORMANCE.md). The algorithm bandwidth is size
/ time. The bus bandwidth is what each link must have carried, and can be compared between numbers of ranks n: it
is the algorithm bandwidth x 2 (n - 1) / n for all-reduce, x 1 for broadcast, and x (n - 1) / n for all-gather,
whose size is that of all ranks' parts together. Rank 0 writes ``metrics.jsonl`` (one line for each measurement)
and ``bandwidth.png``. Runs under ``orch run allreduce-bench``, under plain ``torchrun``, and as a single process,
which measures a copy within its own memory instead.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from _ranks import Ranks, add_backend, parsed, refuse, this_node
from _records import Tally, write_metrics

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def main() -> None:
    """Measure, print the results, and plot them."""
    options = parse_options()
    tally = Tally("exchanges")
    with Ranks(options.backend) as ranks:
        ranks.introduce()
        rows = []
        names = options.collectives
        if ranks.world_size == 1:
            names = ["copy"]
            ranks.say("There is only one rank: measuring a copy within its own memory instead")
        for name in names:
            ranks.say(f"{name:>12}{'bytes':>12}{'ms':>12}{'algorithm Mbit/s':>18}{'bus Mbit/s':>14}")
            for row in measurements(name, options.sizes, options.turns, ranks):
                rows.append(row)
                tally.add(options.turns, options.turns * row["seconds"])
                ranks.say(
                    f"{name:>12}{row['bytes']:>12}{row['seconds'] * 1e3:>12.3f}"
                    f"{row['algorithm_mbit_s']:>18.1f}{row['bus_mbit_s']:>14.1f}"
                )
        if options.pairs and ranks.world_size > 1:
            matrix = pair_matrix(options.pair_size, options.turns, ranks)
            ranks.say(written(matrix, ranks.gathered(this_node())))
            rows += [
                {"collective": "pair", "bytes": options.pair_size, "from": a, "to": b, "bus_mbit_s": matrix[a][b]}
                for a in range(ranks.world_size)
                for b in range(ranks.world_size)
                if a != b
            ]
        if ranks.rank == 0:
            write_metrics(options.output_dir, rows)
            plot(options.output_dir / "bandwidth.png", rows, names)
        tally.summarise(ranks)


def parse_options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes",
        type=size,
        nargs="+",
        default=[4**power << 10 for power in range(10)],
        metavar="BYTES",
        help="such as 1K, 4M or 1G; default 1K to 256M in steps of four",
    )
    parser.add_argument("--collectives", nargs="+", choices=TOGETHER, default=TOGETHER)
    parser.add_argument(
        "--turns", type=int, default=5, help="timed turns per size, after one to warm up; the median counts"
    )
    parser.add_argument(
        "--pairs", action="store_true", help="also measure each pair of ranks, one after the other"
    )
    parser.add_argument("--pair-size", type=size, default=4 << 20, metavar="BYTES")
    add_backend(parser)
    parser.add_argument(
        "--output-dir", type=Path, default=Path(), help="folder for metrics.jsonl and bandwidth.png"
    )
    options = parsed(parser)
    if options.turns < 1:
        refuse(f"--turns {options.turns}: expected at least 1")
    return options


def size(text: str) -> int:
    """Return the bytes of a size such as ``4M``, rounded down to whole floats of 4 bytes; raises ValueError."""
    number = int(text[:-1]) * UNITS[text[-1].upper()] if text[-1:].upper() in UNITS else int(text)
    if number < 4:
        raise ValueError("expected at least 4 bytes, the size of a float")
    return number // 4 * 4


@dataclass(frozen=True)
class Exchange:
    """An operation to time (``do``), and a check that it gives the right values (``right``)."""

    do: Callable[[], object]
    right: Callable[[], bool]


def all_reduce(count: int, ranks: Ranks) -> Exchange:
    """Make the exchange that gives every rank the sum of the ``count`` floats of each rank."""
    values = torch.zeros(count, device=ranks.device)

    def right() -> bool:
        dist.all_reduce(values.fill_(1.0))
        return bool((values == ranks.world_size).all())

    return Exchange(lambda: dist.all_reduce(values), right)


def broadcast(count: int, ranks: Ranks) -> Exchange:
    """Make the exchange that gives every rank the ``count`` floats of rank 0."""
    values = torch.full((count,), float(ranks.rank + 1), device=ranks.device)
    return Exchange(lambda: dist.broadcast(values, src=0), lambda: bool((values == 1).all()))


def all_gather(count: int, ranks: Ranks) -> Exchange:
    """Make the exchange that gives every rank ``count`` floats, an equal part from each rank."""
    part = torch.full((max(1, count // ranks.world_size),), float(ranks.rank), device=ranks.device)
    parts = [torch.empty_like(part) for _ in range(ranks.world_size)]
    return Exchange(
        lambda: dist.all_gather(parts, part),
        lambda: all(bool((each == rank).all()) for rank, each in enumerate(parts)),
    )


def copy(count: int, ranks: Ranks) -> Exchange:
    """Make the exchange that copies ``count`` floats within this rank's memory."""
    values, other = torch.ones(count, device=ranks.device), torch.zeros(count, device=ranks.device)
    return Exchange(lambda: other.copy_(values), lambda: bool((other == 1).all()))


# For each collective how to make it, and the bus bandwidth on n ranks where the algorithm bandwidth is 1.
COLLECTIVES: dict[str, tuple[Callable[[int, Ranks], Exchange], Callable[[int], float]]] = {
    "all-reduce": (all_reduce, lambda n: 2 * (n - 1) / n),
    "broadcast": (broadcast, lambda n: 1.0),
    "all-gather": (all_gather, lambda n: (n - 1) / n),
    "copy": (copy, lambda n: 1.0),
}
TOGETHER = ["all-reduce", "broadcast", "all-gather"]


def measurements(name: str, sizes: Sequence[int], turns: int, ranks: Ranks) -> Iterator[dict[str, Any]]:
    """Measure a collective at each size, in bytes; raises RuntimeError if a rank gets wrong values."""
    make, bus = COLLECTIVES[name]
    for each in sizes:
        exchange = make(each // 4, ranks)
        seconds = timed(exchange.do, turns, ranks)
        if not exchange.right():
            raise RuntimeError(f"{name} of {each} bytes gave wrong values on rank {ranks.rank}, {this_node()}")
        rate = each * 8e-6 / seconds
        yield {
            "collective": name,
            "bytes": each,
            "seconds": seconds,
            "algorithm_mbit_s": rate,
            "bus_mbit_s": rate * bus(ranks.world_size),
            "world_size": ranks.world_size,
        }


def timed(exchange: Callable[[], object], turns: int, ranks: Ranks) -> float:
    """Return the median duration of ``turns`` exchanges, in seconds.

    The duration of an exchange is that on the slowest rank. The first exchange is not counted: it makes
    connections and buffers.
    """
    durations = []
    for turn in range(turns + 1):
        if ranks.world_size > 1:
            # Start together: otherwise the time contains the wait for a late rank.
            dist.barrier()
        synchronize(ranks)
        began = time.perf_counter()
        exchange()
        synchronize(ranks)
        if turn:
            durations.append(time.perf_counter() - began)
    slowest = [max(each) for each in zip(*ranks.gathered(durations))]
    return float(sorted(slowest)[len(slowest) // 2])


def synchronize(ranks: Ranks) -> None:
    """Wait for the GPU: a call that uses it returns before the work is done."""
    if ranks.device.type == "cuda":
        torch.cuda.synchronize()


def pair_matrix(count: int, turns: int, ranks: Ranks) -> list[list[float]]:
    """Return the Mbit/s from each rank (row) to each other (column), 0 on the diagonal.

    ``count``: bytes of a message. One pair is measured at a time, so that pairs do not share a link.
    """
    matrix = [[0.0] * ranks.world_size for _ in range(ranks.world_size)]
    values = torch.ones(count // 4, device=ranks.device)
    answer = torch.zeros(1, device=ranks.device)
    for source in range(ranks.world_size):
        for target in range(ranks.world_size):
            if source == target:
                continue

            def exchange(source: int = source, target: int = target) -> None:
                # Wait for an answer: a send may end as soon as its data are in a buffer of this machine.
                if ranks.rank == source:
                    dist.send(values, dst=target)
                    dist.recv(answer, src=target)
                elif ranks.rank == target:
                    dist.recv(values, src=source)
                    dist.send(answer, dst=source)

            matrix[source][target] = count * 8e-6 / timed(exchange, turns, ranks)
    return matrix


def written(matrix: Sequence[Sequence[float]], names: Sequence[str]) -> str:
    """Return the matrix as a table."""
    lines = ["Mbit/s from (row) to (column)", " " * 24 + "".join(f"{rank:>10}" for rank in range(len(matrix)))]
    for rank, row in enumerate(matrix):
        cells = "".join(f"{rate:>10.1f}" if rate else f"{'-':>10}" for rate in row)
        lines.append(f"{rank:>4} {names[rank]:<19}" + cells)
    return "\n".join(lines)


def plot(path: Path, rows: Sequence[dict[str, Any]], names: Sequence[str]) -> None:
    """Plot the bus bandwidth over the size, with a curve for each collective."""
    import matplotlib

    # Nodes have no screen.
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name in names:
        mine = [row for row in rows if row["collective"] == name]
        axes.plot([row["bytes"] for row in mine], [row["bus_mbit_s"] for row in mine], label=name, marker=".")
    axes.set(xlabel="bytes", ylabel="Mbit/s", title=f"Bus bandwidth on {rows[0]['world_size']} ranks")
    axes.set_xscale("log", base=2)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
