"""Time syncs: unchanged beside ``orch exec``, a first push beside rsync, a large file through the nodes.

Usage: python -m benchmarks.sync [unchanged | push | data ...]
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.namespaces import Cluster
from tests.namespaces.files import NODE_HOME

ROOT = Path(__file__).parent.parent
MANY, ROUNDS = 64, 5
PUSHED = 200_000_000
FILE, MBIT = 64 << 20, 100


def timed(argv: list[str], folder: Path, env: dict[str, str]) -> float:
    """Run a command, which must succeed, and return the seconds it took."""
    began = time.monotonic()
    done = subprocess.run(argv, cwd=folder, env=env, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{argv}: {done.stdout}{done.stderr}")
    return time.monotonic() - began


def orch(*words: str) -> list[str]:
    """Return the command line of orch."""
    return [sys.executable, "-m", "orchestrator", *words]


def rsync(cluster: Cluster, source: Path, to: str, *, node: int) -> list[str]:
    """Return the command line of rsync over ssh to one host."""
    *ssh, destination = cluster.ssh(cluster.hosts[node])
    return ["rsync", "-a", "-e", " ".join(ssh), str(source), f"{destination}:{to}"]


def environment(cluster: Cluster, folder: Path) -> dict[str, str]:
    """Write an inventory into ``folder`` and return orch's environment."""
    (folder / "hosts.yaml").write_text(cluster.hosts_yaml())
    return {**cluster.control_env(), "PYTHONPATH": str(ROOT)}


def unchanged() -> None:
    """Time a sync of a project that every host has already."""
    with Cluster(MANY) as cluster, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = environment(cluster, folder)
        for number in range(1000):
            (folder / f"f{number}").write_bytes(os.urandom(2000))
        timed(orch("sync", "--project", "."), folder, env)
        seconds: dict[str, list[float]] = {"sync": [], "exec": []}
        for _ in range(ROUNDS):
            seconds["sync"].append(timed(orch("sync", "--project", "."), folder, env))
            seconds["exec"].append(timed(orch("exec", "--", "true"), folder, env))
        mine, usual = (statistics.median(seconds[name]) for name in ("sync", "exec"))
        print(f"unchanged, {MANY} hosts: sync {mine:.2f} s, exec -- true {usual:.2f} s: {mine / usual:.2f} x")


def mixed(folder: Path) -> None:
    """Fill a folder with 200 MB: many small files, some large ones."""
    numbers = random.Random(0)
    left = PUSHED
    while left > 0:
        size = min(left, int(numbers.lognormvariate(10, 2)))
        file = folder / f"d{numbers.randrange(50)}" / f"f{left}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(numbers.randbytes(size))
        left -= size


def push() -> None:
    """Time a first push to one host, in turns with rsync."""
    with Cluster(1) as cluster, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        project = folder / "project"
        project.mkdir()
        mixed(project)
        env = environment(cluster, folder)
        count = sum(1 for path in project.rglob("*") if path.is_file())
        seconds: dict[str, list[float]] = {"sync": [], "rsync": []}
        home = cluster.hosts[0].home
        for turn in range(ROUNDS + 1):
            shutil.rmtree(home / "orch-work", ignore_errors=True)
            # Neither must wait for the disk to take what the other wrote.
            os.sync()
            mine = timed(orch("sync", "--project", "project"), folder, env)
            shutil.rmtree(home / "rsynced", ignore_errors=True)
            os.sync()
            theirs = timed(rsync(cluster, project, f"{NODE_HOME}/rsynced/", node=0), folder, env)
            if turn:
                seconds["sync"].append(mine)
                seconds["rsync"].append(theirs)
        for name, each in seconds.items():
            print(f"{name}: {', '.join(f'{value:.2f}' for value in each)} s")
        mine, theirs = (statistics.median(seconds[name]) for name in ("sync", "rsync"))
        print(
            f"first push, {count} files of 200 MB: sync {mine:.2f} s, rsync {theirs:.2f} s: {mine / theirs:.2f} x"
        )


def data() -> None:
    """Time a file to 1, 2, 4 and 8 hosts over links of 100 Mbit/s, and by rsync to all 8 at once."""
    with Cluster(8) as cluster, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = environment(cluster, folder)
        file = folder / "big.bin"
        file.write_bytes(os.urandom(FILE))
        timed(orch("exec", "--", "true"), folder, env)
        for host in cluster.hosts:
            host.slow(MBIT)
        cluster.slow_control(MBIT)
        took = {}
        for count in (1, 2, 4, 8):
            for host in cluster.hosts:
                shutil.rmtree(host.home / "orch-work" / "data", ignore_errors=True)
            words = orch("sync", "--project", str(folder / "none"), "--data", "big.bin", "--nodes", str(count))
            (folder / "none").mkdir(exist_ok=True)
            took[count] = timed(words, folder, env)
            print(f"{FILE >> 20} MiB to {count} hosts: {took[count]:.1f} s")
        with ThreadPoolExecutor(8) as pool:
            began = time.monotonic()
            commands = [rsync(cluster, file, f"{NODE_HOME}/rsynced/", node=node) for node in range(8)]
            list(pool.map(lambda argv: timed(argv, folder, env), commands))
            print(f"rsync to 8 hosts at once: {time.monotonic() - began:.1f} s")
        print(f"time(8) / time(1): {took[8] / took[1]:.2f}")


def main() -> None:
    """Run the named parts, or all of them."""
    parts = {"unchanged": unchanged, "push": push, "data": data}
    for name in sys.argv[1:] or parts:
        parts[name]()


if __name__ == "__main__":
    main()
