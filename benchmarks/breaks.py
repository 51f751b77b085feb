"""Break syncs off at random moments; the sync that follows each must repair everything.

Usage: python -m benchmarks.breaks [TIMES] [SEED]
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.namespaces import Cluster, NodeHost
from tests.namespaces.files import NODE_HOME

ROOT = Path(__file__).parent.parent
FILES, FILE_SIZE, DATA_SIZE = 150, 100_000, 15_000_000
# At this rate a sync takes about three seconds.
MBIT = 60
ORCH = [sys.executable, "-m", "orchestrator"]


def cut(cluster: Cluster, process: subprocess.Popen[bytes], numbers: random.Random) -> Callable[[], object]:
    """Cut the link of one host, for a moment or for the rest of this sync."""
    host = numbers.choice(cluster.hosts)
    host.cut()
    if numbers.random() < 0.5:
        time.sleep(numbers.uniform(0.1, 3))
        host.restore()
    else:
        # TCP would wait for minutes, so the sync is killed.
        process.kill()
    return host.restore


def kill_node(cluster: Cluster, process: subprocess.Popen[bytes], numbers: random.Random) -> Callable[[], object]:
    """Kill the node program on one host."""
    host = numbers.choice(cluster.hosts)
    for each in host.processes():
        if any(word.endswith(".pyz") for word in each.argv):
            os.kill(each.pid_outside, signal.SIGKILL)
    return lambda: None


def kill_control(
    cluster: Cluster, process: subprocess.Popen[bytes], numbers: random.Random
) -> Callable[[], object]:
    """Kill orch itself."""
    process.kill()
    return lambda: None


def fill_disk(cluster: Cluster, process: subprocess.Popen[bytes], numbers: random.Random) -> Callable[[], object]:
    """Shrink the disk of node2 until it has little or no room left."""
    status = os.statvfs(cluster.hosts[1].root / NODE_HOME.strip("/") / "orch-work")
    used = (status.f_blocks - status.f_bfree) * status.f_frsize
    resize(cluster.hosts[1], used + numbers.randrange(0, DATA_SIZE))
    return lambda: resize(cluster.hosts[1], 2 << 30)


BREAKS = {"cut": cut, "node killed": kill_node, "control killed": kill_control, "disk full": fill_disk}


def resize(host: NodeHost, size: int) -> None:
    """Set the size, in bytes, of the disk of a host's workdir."""
    done = host.run("mount", "-o", f"remount,size={size // 4096 * 4096}", f"{NODE_HOME}/orch-work")
    assert done.returncode == 0, done.stderr


def half_written(host: NodeHost) -> list[str]:
    """Return the files of a host's visible trees that are not as their tree's list says."""
    work = host.root / NODE_HOME.strip("/") / "orch-work"
    wrong = []
    for tree in work.glob("project/*"):
        if not tree.is_dir() or tree.name.startswith(".part-"):
            continue
        entries = json.loads(tree.with_name(tree.name + ".json").read_text())
        for path, kind, mode, size, sha in entries:
            file = tree / path
            good = kind == "file" and file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest() == sha
            if not good or file.stat().st_size != size or file.stat().st_mode & 0o777 != mode:
                wrong.append(str(file))
    return wrong


def temporary(host: NodeHost) -> list[str]:
    """Return the incomplete files and folders on a host."""
    work = host.root / NODE_HOME.strip("/") / "orch-work"
    return [str(path) for pattern in (".part-*", ".orch-*.part") for path in work.rglob(pattern)]


def once(cluster: Cluster, folder: Path, env: dict[str, str], kind: str, numbers: random.Random) -> str:
    """Break one sync, then run one that must succeed; return how the first one ended."""
    project = folder / "project"
    for number in range(FILES):
        if numbers.random() < 0.3 or not (project / f"f{number}").exists():
            (project / f"f{number}").write_bytes(numbers.randbytes(FILE_SIZE))
    (folder / "data.bin").write_bytes(numbers.randbytes(DATA_SIZE))
    argv = [*ORCH, "sync", "--project", "project", "--data", "data.bin"]
    process = subprocess.Popen(argv, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    time.sleep(numbers.uniform(0.4, 3.5))
    mend = BREAKS[kind](cluster, process, numbers)
    try:
        process.communicate(timeout=120)
        wrong = [each for host in cluster.hosts for each in half_written(host)]
        assert not wrong, wrong
    finally:
        mend()
    again = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    check = subprocess.run(
        [*ORCH, "sync", "--project", "project", "--check"], cwd=folder, env=env, capture_output=True, check=False
    )
    assert check.returncode == 0, check.stdout
    data = (folder / "data.bin").read_bytes()
    for host in cluster.hosts:
        assert (host.root / NODE_HOME.strip("/") / "orch-work/data/data.bin").read_bytes() == data
        assert not half_written(host) and not temporary(host), temporary(host)
    return f"{'went through' if process.returncode == 0 else f'exit code {process.returncode}'}"


def prepare(cluster: Cluster, folder: Path) -> dict[str, str]:
    """Write the inventory, give node2 a disk of its own, slow the links, and return orch's environment."""
    (folder / "hosts.yaml").write_text(cluster.hosts_yaml())
    (folder / "project").mkdir()
    mount = f"mkdir -p {NODE_HOME}/orch-work && mount -t tmpfs -o size=2g disk {NODE_HOME}/orch-work"
    assert cluster.hosts[1].run("sh", "-c", mount).returncode == 0
    for host in cluster.hosts:
        host.slow(MBIT)
    return {**cluster.control_env(), "PYTHONPATH": str(ROOT)}


def main() -> None:
    """Break, repair, and print how often each kind of break ended in which way."""
    times, seed = (int(word) for word in [*sys.argv[1:], *["50", "0"][len(sys.argv) - 1 :]])
    numbers = random.Random(seed)
    seen: Counter[tuple[str, str]] = Counter()
    with Cluster(3) as cluster, tempfile.TemporaryDirectory() as name:
        env = prepare(cluster, Path(name))
        for number in range(times):
            kind = list(BREAKS)[number % len(BREAKS)]
            seen[kind, once(cluster, Path(name), env, kind, numbers)] += 1
            print(f"\r{number + 1}/{times}", end="", flush=True)
    print()
    for (kind, ended), count in sorted(seen.items()):
        print(f"{kind}: the broken sync: {ended}, {count} times")
    print(
        f"{times} of {times} later syncs completed; every hash right, no tree half-written, no temporary file left"
    )


if __name__ == "__main__":
    main()
