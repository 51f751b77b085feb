"""Send SIGTERM to a training again and again, at random or in the middle of a save: every later start must resume.

``python -m benchmarks.stops [TIMES]`` (default 30), in turns as one process and as two ranks under torchrun.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.workloads import WORKLOADS

# More epochs than any of these runs reaches: each is stopped.
EPOCHS = 100_000
RANKS = (1, 2)
MOMENTS = ("by chance", "in a save")


def start(folder: Path, ranks: int) -> subprocess.Popen[str]:
    """Start a training on ``ranks`` ranks in a folder."""
    words = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    words += [str(WORKLOADS / "train.py"), "--dataset", "digits", "--epochs", str(EPOCHS)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.Popen(
        [sys.executable, *words], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def once(folder: Path, ranks: int, moment: str, numbers: random.Random) -> dict[str, Any]:
    """Start, stop at ``moment`` and return the snapshot. Raises AssertionError if something saved is missing."""
    before = snapshot(folder)
    process = start(folder, ranks)
    assert process.stdout is not None
    begun = ""
    while "Epoch" not in begun:
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        begun += line
    if before is not None:
        assert f"Resuming from epoch {before['epoch']} " in begun, begun
    if moment == "by chance":
        time.sleep(numbers.uniform(0, 1.5))
    else:
        await_save(folder)
    process.send_signal(signal.SIGTERM)
    printed, errors = process.communicate(timeout=60)
    # torchrun ends with 1 whatever its ranks end with.
    assert process.returncode == (128 + signal.SIGTERM if ranks == 1 else 1), errors
    after = snapshot(folder)
    assert after is not None
    said = [int(number) for number in re.findall(r"Epoch (\d+)/", begun + printed)]
    assert after["epoch"] >= max(said), (after["epoch"], said)
    assert [row["epoch"] for row in after["rows"]] == list(range(1, after["epoch"] + 1))
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert len([json.loads(line) for line in lines]) in (after["epoch"], after["epoch"] - 1)
    return after


def snapshot(folder: Path) -> dict[str, Any] | None:
    """Return the content of the snapshot, which must be readable, or None if there is none."""
    import torch

    path = folder / "snapshot.pt"
    found: dict[str, Any] | None = torch.load(path, weights_only=True) if path.exists() else None
    return found


def await_save(folder: Path) -> None:
    """Wait until a save has begun and not ended."""
    deadline = time.monotonic() + 30
    while not list(folder.glob(".snapshot.pt.*.partial")):
        assert time.monotonic() < deadline, "no save began within 30 s"


def main() -> None:
    """Stop and start again ``TIMES`` times, and print each snapshot's epoch."""
    times = int(sys.argv[1]) if sys.argv[1:] else 30
    numbers = random.Random(6)
    with tempfile.TemporaryDirectory() as made:
        for number in range(times):
            ranks, moment = RANKS[number % 2], MOMENTS[number // 2 % 2]
            after = once(Path(made), ranks, moment, numbers)
            print(
                f"{number + 1:>3}  {ranks} ranks  stopped {moment:<10}  epoch {after['epoch']}, "
                f"{after['seen']} samples of the next",
                flush=True,
            )
    print(f"{times} of {times} stops left a whole snapshot, and every later start resumed from it")


if __name__ == "__main__":
    main()
