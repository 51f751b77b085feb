"""Compare ``orch exec -- echo hi`` on many hosts with a bare Fabric thread pool doing the same, in turns.

Usage: python -m benchmarks.exec [HOSTS] [ROUNDS]
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
BARE = """
import sys
from concurrent.futures import ThreadPoolExecutor
from fabric import Connection
key, *hosts = sys.argv[1:]
def ask(host):
    with Connection(host, user="root", connect_kwargs={"key_filename": key}) as connection:
        return connection.run("echo hi", hide=True).stdout
with ThreadPoolExecutor(64) as pool:
    assert list(pool.map(ask, hosts)) == ["hi\\n"] * len(hosts)
"""


def main() -> None:
    """Print both medians and their ratio."""
    hosts, rounds = (int(word) for word in [*sys.argv[1:], *["64", "5"][len(sys.argv) - 1 :]])
    with Cluster(hosts) as cluster, tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "hosts.yaml").write_text(cluster.hosts_yaml())
        env = {**cluster.control_env(), "PYTHONPATH": str(ROOT)}
        commands = {
            "bare Fabric": [
                sys.executable,
                "-c",
                BARE,
                str(cluster.identity_file),
                *(h.address for h in cluster.hosts),
            ],
            "orch exec": [sys.executable, "-m", "orchestrator", "exec", "--", "echo", "hi"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for turn in range(rounds + 1):
            for name, argv in commands.items():
                began = time.monotonic()
                subprocess.run(
                    argv, cwd=folder, env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                if turn:
                    seconds[name].append(time.monotonic() - began)
    for name, each in seconds.items():
        print(f"{name}: median {statistics.median(each):.2f} s of {', '.join(f'{value:.2f}' for value in each)}")
    ratio = statistics.median(seconds["orch exec"]) / statistics.median(seconds["bare Fabric"])
    print(f"orch exec / bare Fabric on {hosts} hosts: {ratio:.2f}")


if __name__ == "__main__":
    main()
