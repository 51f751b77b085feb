"""Cut one host's link again and again while three ranks print numbered lines: each must arrive once, in order.

Usage: python -m benchmarks.cuts [LINES] [CUTS] [SECONDS]
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.namespaces import Cluster

ROOT = Path(__file__).parent.parent
COUNT = """
import os, sys, time
lines, seconds = int(sys.argv[1]), float(sys.argv[2])
print("up", flush=True)
began = time.monotonic()
for first in range(0, lines, 1000):
    sys.stdout.write("".join(f"{number}\\n" for number in range(first, min(lines, first + 1000))))
    sys.stdout.flush()
    time.sleep(max(0.0, began + seconds * first / lines - time.monotonic()))
"""


def wrong_lines(
    cluster: Cluster, folder: Path, *, lines: int, cuts: int, each: tuple[float, float], seconds: float
) -> list[str]:
    """Return what went wrong with the lines, one sentence a problem.

    Each rank prints ``lines`` lines over ``seconds``, while node2's link is cut ``cuts`` times, each time for a random
    number of seconds in the range ``each``.
    """
    (folder / "hosts.yaml").write_text(cluster.hosts_yaml())
    (folder / "count.py").write_text(COUNT)
    env = {**cluster.control_env(), "PYTHONPATH": str(ROOT)}
    words = ["run", "count.py", "--", str(lines), str(seconds)]
    with (folder / "output").open("wb") as out, (folder / "errors").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *words], cwd=folder, env=env, stdout=out, stderr=err
        )
    try:
        while (folder / "output").read_bytes().count(b"] up\n") < 3:
            assert process.poll() is None, (folder / "errors").read_text()
            time.sleep(0.05)
        for _ in range(cuts):
            time.sleep(seconds / cuts / 4)
            cluster["node2"].cut()
            time.sleep(random.uniform(*each))
            cluster["node2"].restore()
        code = process.wait(seconds + 120)
    finally:
        cluster["node2"].restore()
        process.kill()
        process.wait()
    wrong = [f"exit code {code}: {(folder / 'errors').read_text()[-2000:]}"] if code else []
    expected = {f"[node{rank + 1}:{rank}]": -1 for rank in range(3)}
    with (folder / "output").open() as output:
        for line in output:
            prefix, _, text = line.rstrip("\n").partition(" ")
            if text == "up":
                continue
            expected[prefix] += 1
            if text != str(expected[prefix]):
                wrong.append(f"{line.strip()!r} came where {expected[prefix]} was expected")
                break
    return wrong + [f"{prefix} ended with line {last}" for prefix, last in expected.items() if last != lines - 1]


def main() -> None:
    """Run the benchmark and print the result."""
    lines, cuts, seconds = (int(word) for word in [*sys.argv[1:], *["1000000", "20", "120"][len(sys.argv) - 1 :]])
    with Cluster(3, python=sys.executable) as cluster, tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        wrong = wrong_lines(cluster, Path(folder), lines=lines, cuts=cuts, each=(1.0, 5.0), seconds=float(seconds))
        again = (Path(folder) / "errors").read_text().count("connected again")
        print(f"3 x {lines} lines, {cuts} cuts, {again} new connections, {time.monotonic() - began:.0f} s")
    print("\n".join(wrong) or "all lines arrived, in order, once")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
