"""Measure how fast one rank's output reaches ``orch run ... | cat > file``, and the control process's memory.

Usage: python -m benchmarks.stream [MEGABYTES]
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.namespaces import Cluster

ROOT = Path(__file__).parent.parent
LINE = 80
SCRIPT = f"""
import os, sys, time
count = int(sys.argv[1])
print(time.time(), file=sys.stderr)
for first in range(0, count, 20000):
    sys.stdout.write("".join(f"{{n:0{LINE - 1}d}}\\n" for n in range(first, min(count, first + 20000))))
"""


def main() -> None:
    """Print MB/s from the script's first byte to orch's last write to the log, and the peak of orch's memory."""
    count = int(sys.argv[1] if len(sys.argv) > 1 else "200") * 1_000_000 // LINE
    with Cluster(1, python=sys.executable, visible=[ROOT]) as cluster, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "hosts.yaml").write_text(cluster.hosts_yaml())
        (folder / "flood.py").write_text(SCRIPT)
        env = {**cluster.control_env(), "PYTHONPATH": str(ROOT)}
        argv = [sys.executable, "-m", "orchestrator", "run", "flood.py", "--", str(count)]
        orch = subprocess.Popen(argv, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        with (folder / "out").open("wb") as out:
            cat = subprocess.Popen(["cat"], stdin=orch.stdout, stdout=out)
        assert orch.stdout
        orch.stdout.close()
        peak = 0
        while orch.poll() is None:
            status = Path(f"/proc/{orch.pid}/status").read_text()
            if found := re.search(r"VmHWM:\s+(\d+) kB", status):
                peak = max(peak, int(found.group(1)))
            time.sleep(0.05)
        cat.wait()
        end = max(file.stat().st_mtime for file in folder.glob("runs/*/logs/node1/rank0.stdout.log"))
        began, number, errors = 0.0, 0, 0
        with (folder / "out").open("rb") as lines:
            for line in lines:
                if b" err] " in line:
                    began = float(line.split()[-1])
                    continue
                errors += line != b"[node1:0] %0*d\n" % (LINE - 1, number)
                number += 1
        size = count * LINE / 1e6
        print(f"{number} of {count} lines, {errors} wrong; exit code {orch.returncode}")
        print(f"{size:.0f} MB in {end - began:.2f} s: {size / (end - began):.0f} MB/s")
        print(f"control process: {peak / 1000:.0f} MB at its peak")
    os._exit(0)


if __name__ == "__main__":
    main()
