"""Compare ``orch doctor`` with ``orch exec`` of a Python that does nothing, and of one that imports torch.

Usage: python -m benchmarks.doctor [HOSTS] [ROUNDS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests import standin
from tests.namespaces import Cluster

ROOT = Path(__file__).parent.parent


def timed(folder: str, env: dict[str, str], *words: str) -> tuple[float, str]:
    """Run orch; return the seconds it took and what it printed to stderr."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", *words],
        cwd=folder,
        env=env,
        check=True,
        capture_output=True,
        text=True,
    )
    return time.monotonic() - began, done.stderr


def compared(cluster: Cluster, inventory: str, yardstick: list[str], rounds: int) -> tuple[float, float, str]:
    """Run doctor and the yardstick in turns; return both medians in seconds, and where doctor's time went."""
    env = {**cluster.control_env(), "PYTHONPATH": str(ROOT)}
    seconds: dict[str, list[float]] = {"doctor": [], "exec": []}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "hosts.yaml").write_text(inventory)
        for turn in range(rounds + 1):
            took, stages = timed(folder, env, "doctor")
            usual, _ = timed(folder, env, "exec", "--", *yardstick)
            if turn:
                seconds["doctor"].append(took)
                seconds["exec"].append(usual)
    return statistics.median(seconds["doctor"]), statistics.median(seconds["exec"]), stages.strip()


def main() -> None:
    """Print both comparisons."""
    hosts, rounds = (int(word) for word in [*sys.argv[1:], *["64", "3"][len(sys.argv) - 1 :]])
    with Cluster(3, python=sys.executable) as cluster:
        took, usual, stages = compared(
            cluster, cluster.hosts_yaml(), [sys.executable, "-c", "import torch"], rounds
        )
        print(
            f"3 hosts, real torch: doctor {took:.2f} s, import torch {usual:.2f} s; limit {1.5 * usual + 2:.2f} s"
        )
        print(stages)
    with Cluster(hosts) as cluster:
        for host in cluster.hosts:
            standin.install(host)
        inventory = cluster.hosts_yaml(defaults={"python": standin.PYTHON})
        took, usual, stages = compared(cluster, inventory, ["python3", "-c", "pass"], rounds)
        print(f"{hosts} hosts: doctor {took:.2f} s, python3 -c pass {usual:.2f} s: {took / usual:.2f} x")
        print(stages)


if __name__ == "__main__":
    main()
