"""Compare ``orch ps`` and ``orch stop --all`` on many idle hosts with ``orch exec -- true``, in turns.

Usage: python -m benchmarks.ps [HOSTS] [ROUNDS]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.namespaces import Cluster

ROOT = Path(__file__).parent.parent
COMMANDS = {"exec": ["exec", "--", "true"], "ps": ["ps"], "stop": ["stop", "--all"]}


def main() -> None:
    """Print the medians and their ratios to ``exec``."""
    hosts, rounds = (int(word) for word in [*sys.argv[1:], *["64", "5"][len(sys.argv) - 1 :]])
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with Cluster(hosts) as cluster, tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "hosts.yaml").write_text(cluster.hosts_yaml())
        env = {**cluster.control_env(), "PYTHONPATH": str(ROOT)}
        for turn in range(rounds + 1):
            for name, words in COMMANDS.items():
                began = time.monotonic()
                subprocess.run(
                    [sys.executable, "-m", "orchestrator", *words],
                    cwd=folder,
                    env=env,
                    check=True,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                if turn:
                    seconds[name].append(time.monotonic() - began)
    usual = statistics.median(seconds["exec"])
    for name, each in seconds.items():
        print(
            f"orch {name} on {hosts} hosts: {statistics.median(each):.2f} s, {statistics.median(each) / usual:.2f} x"
        )


if __name__ == "__main__":
    main()
