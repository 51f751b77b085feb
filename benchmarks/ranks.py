"""Run many ranks with few open files: ``python -m benchmarks.ranks [PER_HOST]`` (default 128), on four hosts.

A stand-in for torchrun starts workers the way torchrun does, with its logs and variables, because 512 imports of
torch would need more memory than machines have. ``orch run`` may open 256 files. Prints how many of the expected
lines arrived; exits with 1 if one is missing or ``orch run`` fails.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import ROOT
from tests.namespaces import Cluster
from tests.standin import PYTHON, install

LINES = 20
FILES = 256
# The part of torch.distributed.run that a run needs: one process a local rank, each with output files of its own.
TORCHRUN = f"""
import os, subprocess, sys
options = dict(word[2:].split("=", 1) for word in sys.argv[1:] if word.startswith("--") and "=" in word)
count, rank = int(options["nproc_per_node"]), int(options["node_rank"])
workers = []
for local in range(count):
    folder = os.path.join(options["log_dir"], "none_x", "attempt_0", str(local))
    os.makedirs(folder)
    env = dict(os.environ, RANK=str(rank * count + local), LOCAL_RANK=str(local), TORCHELASTIC_RESTART_COUNT="0")
    script = "i=0; while [ $i -lt {LINES} ]; do echo rank $RANK line $i; i=$((i+1)); done; sleep 3"
    workers.append(subprocess.Popen(["sh", "-c", script], env=env, stdout=open(folder + "/stdout.log", "w"),
                                    stderr=open(folder + "/stderr.log", "w")))
sys.exit(max(worker.wait() for worker in workers))
"""


def main() -> int:
    """Run, count the lines and return the exit code."""
    ranks = int(sys.argv[1]) if len(sys.argv) > 1 else 128
    with Cluster(4) as cluster, tempfile.TemporaryDirectory() as folder:
        for host in cluster.hosts:
            package = install(host) / "torch" / "distributed"
            package.mkdir()
            (package.parent / "distributed.py").rename(package / "__init__.py")
            (package / "run.py").write_text(TORCHRUN)
        (Path(folder) / "hosts.yaml").write_text(cluster.hosts_yaml(defaults={"python": PYTHON}))
        (Path(folder) / "any.py").write_text("")
        argv = [sys.executable, "-m", "orchestrator", "run", "--nproc", str(ranks), "any.py"]
        began = time.monotonic()
        done = subprocess.run(
            argv,
            cwd=folder,
            env={**cluster.control_env(), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES)),
        )
        took = time.monotonic() - began
    wanted = {f"rank {rank} line {line}" for rank in range(4 * ranks) for line in range(LINES)}
    heard = {line.partition("] ")[2] for line in done.stdout.splitlines()}
    print(f"4 hosts with {ranks} ranks each, {FILES} open files: {len(wanted & heard)} of {len(wanted)} lines,")
    print(f"exit code {done.returncode}, {took:.1f} s")
    if wanted - heard or done.returncode:
        print(done.stderr[-2000:])
    return 0 if wanted <= heard and done.returncode == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
