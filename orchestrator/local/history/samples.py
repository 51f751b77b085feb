"""The load of a run's nodes over time, in ``samples.jsonl`` of its folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.core.run.output import NodeSample

NAME = "samples.jsonl"
# Interval between two samples of a node that are kept, in seconds: 200 nodes fill 150 MB in a day.
INTERVAL = 10.0
# What the newest samples of all nodes fit into, in bytes.
TAIL = 256 * 1024


class Samples:
    """Keeps samples in a run's folder. A load that cannot be written is not worth a run: it is left out."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.kept: dict[str, float] = {}

    def take(self, sample: NodeSample) -> None:
        """Keep a sample, unless one of the same node was kept a moment ago."""
        if sample.time - self.kept.get(sample.node, float("-inf")) < INTERVAL:
            return
        self.kept[sample.node] = sample.time
        line = {
            "time": round(sample.time, 1),
            "node": sample.node,
            "cpu": round(sample.cpu, 3),
            "memory": [sample.memory_used, sample.memory_total],
            "gpus": [[round(busy, 3), used, total] for busy, used, total in sample.gpus],
        }
        with suppress(OSError), self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """Return the samples of a run, in the order of their arrival; damaged lines are skipped."""
    try:
        with (folder / NAME).open("rb") as lines:
            return list(_rows(lines))
    except OSError:
        return []


def newest_samples(folder: Path) -> list[dict[str, Any]]:
    """Return the newest sample of each node."""
    try:
        with (folder / NAME).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            return list({row["node"]: row for row in _rows(file)}.values())
    except OSError:
        return []


def _rows(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        with suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            gpus = [[float(part) for part in gpu] for gpu in row["gpus"]]
            yield {**row, "time": float(row["time"]), "cpu": float(row["cpu"]), "gpus": gpus}
