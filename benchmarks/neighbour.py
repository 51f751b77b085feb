"""Attack a run as another user of its node: ``python -m benchmarks.neighbour [SECONDS]`` (default 60).

While a job runs, user nobody sends all sorts of messages to every socket that listens on the node and opens every
path that it can reach; then the job's owner stops it. Prints what was tried, how long the stop took, and how long a
stop takes without an attack. Exits with 1 if the job did not go on or its stop took two seconds longer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from orchestrator.protocol.run import ListRuns, RunsHere
from orchestrator.remote.node import Node
from tests import bare
from tests.namespaces import Cluster, NodeHost

ATTACK = r"""
import glob, json, os, random, socket, sys, time
said = [b"[]\n", b"null\n", b"{}\n", b"\xff" * 100, b"[" * 100000, b"", b"GET / HTTP/1.0\r\n\r\n",
        json.dumps({"op": "stop", "run_id": None, "grace": 0}).encode() + b"\n",
        json.dumps({"op": "status"}).encode() + b"\n", os.urandom(5000)]
end = time.monotonic() + float(sys.argv[1])
sent, opened, held = 0, 0, []
def reach(sock, where):
    global sent
    try:
        sock.settimeout(0.2); sock.connect(where); sock.send(random.choice(said)); sent += 1
    except (OSError, ValueError): pass
    if random.random() < 0.1 and len(held) < 200: held.append(sock)
    else: sock.close()
while time.monotonic() < end:
    for line in open("/proc/net/unix").read().splitlines()[1:]:
        name = line.split()[-1]
        for _ in range(50 if name.startswith("@") else 0):
            reach(socket.socket(socket.AF_UNIX), "\0" + name[1:])
        if name.startswith("@"): continue
        if name.startswith("/"): reach(socket.socket(socket.AF_UNIX), name)
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in open(table).read().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A": reach(socket.socket(), ("127.0.0.1", int(fields[1].rpartition(":")[2], 16)))
    for sock in held:
        try: sock.send(b" ")
        except OSError: pass
    for pid in glob.glob("/proc/[0-9]*"):
        for path in ("mem", "environ", "fd", "cwd", "root", "status"):
            try: os.listdir(pid + "/" + path) if path in ("fd", "cwd", "root") else open(pid + "/" + path, "r+b")
            except OSError: pass
        try: int(pid[6:]) == os.getpid() or os.kill(int(pid[6:]), 9)
        except OSError: pass
    for base in ("/root", "/tmp", "/var", "/run", "/dev/shm", "/etc"):
        for folder, _, files in os.walk(base):
            if time.monotonic() > end: break
            for name in files[:50]:
                opened += 1
                for mode in ("rb", "ab"):
                    try: open(os.path.join(folder, name), mode).close()
                    except OSError: pass
print(sent, opened)
"""
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


def stopped(node: Node, project: Path, host: NodeHost, seconds: float) -> tuple[bool, float, str]:
    """Return whether a job outlives ``seconds`` of attack, how long its stop then takes, and what was tried."""
    asked = bare.request(node, project, ["sleep", "3600"])
    bare.start(node, asked)
    said = "nothing"
    attack = None
    if seconds:
        argv = host.enter(*NOBODY, "python3", "-c", ATTACK, str(seconds + 5))
        attack = subprocess.Popen(argv, env=host.login(), stdout=subprocess.PIPE, text=True)
        time.sleep(seconds)
    (run,) = node.ask(ListRuns(run_id=asked.run_id, ended=True), RunsHere.from_wire, 30).runs
    began = time.monotonic()
    node.stop(asked.run_id, 5.0)
    took = time.monotonic() - began
    if attack is not None:
        said = "{} messages and {} files".format(*attack.communicate()[0].split())
    return run.state == "running", took, said


def main() -> int:
    """Attack, print the result and return the exit code."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    with Cluster(1, python=sys.executable, visible=[]) as cluster, tempfile.TemporaryDirectory() as folder:
        os.environ["HOME"] = cluster.control_env()["HOME"]
        (Path(folder) / "file").write_text("x")
        with bare.connected(cluster) as node:
            _, usual, _ = stopped(node, Path(folder), cluster.hosts[0], 0)
            went_on, took, said = stopped(node, Path(folder), cluster.hosts[0], seconds)
    print(f"tried within {seconds:.0f} s: {said}; the job {'went on' if went_on else 'ENDED'}")
    print(f"its stop took {took:.2f} s, {usual:.2f} s undisturbed: {took / usual:.1f} times as long")
    return 0 if went_on and took < usual + 2 else 1


if __name__ == "__main__":
    sys.exit(main())
