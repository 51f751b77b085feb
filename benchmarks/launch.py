"""Compare ``orch run message-passing`` with torchruns started over bare Fabric, on three hosts, in turns.

Usage: python -m benchmarks.launch [ROUNDS]
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
HOSTS = 3
BARE = """
import shlex, sys
from concurrent.futures import ThreadPoolExecutor
from fabric import Connection
key, python, script, *hosts = sys.argv[1:]
def launch(rank):
    argv = [python, "-m", "torch.distributed.run", f"--nnodes={len(hosts)}", "--nproc_per_node=1",
            f"--node_rank={rank}", f"--master_addr={hosts[0]}", "--master_port=29500", script]
    with Connection(hosts[rank], user="root", connect_kwargs={"key_filename": key}) as connection:
        return connection.run("GLOO_SOCKET_IFNAME=eth0 " + shlex.join(argv), hide=True).stdout
with ThreadPoolExecutor(len(hosts)) as pool:
    assert "".join(pool.map(launch, range(len(hosts)))).count("42.0") == len(hosts)
"""


def main() -> None:
    """Print both medians and their ratio."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    script = str(ROOT / "workloads" / "message_passing.py")
    with Cluster(HOSTS, python=sys.executable, visible=[ROOT]) as cluster, tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "hosts.yaml").write_text(cluster.hosts_yaml())
        env = {**cluster.control_env(), "PYTHONPATH": str(ROOT)}
        addresses = [host.address for host in cluster.hosts]
        commands = {
            "by hand": [
                sys.executable,
                "-c",
                BARE,
                str(cluster.identity_file),
                sys.executable,
                script,
                *addresses,
            ],
            "orch run": [sys.executable, "-m", "orchestrator", "run", "message-passing"],
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
    print(
        f"orch run / by hand: {statistics.median(seconds['orch run']) / statistics.median(seconds['by hand']):.2f}"
    )


if __name__ == "__main__":
    main()
