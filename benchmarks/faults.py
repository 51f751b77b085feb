"""Break runs in every way that clusters break them, and print what the user sees and what is left behind.

Usage: python -m benchmarks.faults [WORD ...]    (only the cells whose name contains one of the words)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.namespaces import Cluster, NodeHost
from tests.namespaces.host import Process

ROOT = Path(__file__).parent.parent
HEALTHY = """
import os, time
print("up", flush=True)
for number in range(int(os.environ.get("TICKS", "150"))):
    print("tick", number, flush=True)
    time.sleep(0.1)
"""
RAISES = HEALTHY.replace(
    "    time.sleep",
    "    if os.environ['RANK'] == '1' and number == 5: raise ValueError('bad batch')\n    time.sleep",
)
SEGFAULTS = RAISES.replace("raise ValueError('bad batch')", "import ctypes; ctypes.string_at(0)")
KILLED = RAISES.replace("raise ValueError('bad batch')", "os.kill(os.getpid(), 9)")
HANGS = """
import os, time, torch, torch.distributed as dist
dist.init_process_group("gloo")
print("up", flush=True)
time.sleep(1)
if dist.get_rank() == 1:
    raise ValueError("bad batch")
dist.all_reduce(torch.ones(1))
"""
FILLS = """
import os, time
print("up", flush=True)
while True:
    print("x" * 1000, flush=True)
    time.sleep(0.001)
"""
START_LIMIT, END_LIMIT = 90.0, 150.0


@dataclass
class Case:
    """A run to be broken, and the helpers of its faults."""

    cluster: Cluster
    folder: Path
    process: subprocess.Popen[bytes] | None = None
    healed: list[Callable[[], object]] = field(default_factory=list)

    @property
    def env(self) -> dict[str, str]:
        """The environment of the control process."""
        return {**self.cluster.control_env(), "PYTHONPATH": str(ROOT)}

    def orch(self, *words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run ``orch`` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "orchestrator", *words],
            cwd=folder or self.folder,
            env={**self.env, "ORCH_HOSTS": str(self.folder / "hosts.yaml")},
            capture_output=True,
            text=True,
            timeout=END_LIMIT,
        )

    def start(self, *words: str, ranks: int = 3) -> None:
        """Start ``orch run`` in the background and wait until all ranks are up."""
        with (self.folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator", "run", *words],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # This program may run under nohup, whose ignored SIGHUP children inherit.
                preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
            )
        deadline = time.monotonic() + START_LIMIT
        while self.output().count("] up\n") < ranks:
            assert time.monotonic() < deadline and self.process.poll() is None, self.output()
            time.sleep(0.05)

    def output(self) -> str:
        """Return what the user has seen so far."""
        return (self.folder / "output").read_text(errors="replace")

    def marked(self) -> list[Process]:
        """Return the processes with a run's mark on any host."""
        return [each for host in self.cluster.hosts for each in host.processes() if "ORCH_RUN_ID" in each.environ]

    def workers(self, node: str) -> list[Process]:
        """Return the processes of a node's ranks."""
        return [each for each in self.cluster[node].processes() if "LOCAL_RANK" in each.environ]

    def torchrun(self, node: str) -> Process:
        """Return a node's torchrun."""
        (found,) = (
            each
            for each in self.cluster[node].processes()
            if "ORCH_RUN_ID" in each.environ and "LOCAL_RANK" not in each.environ
        )
        return found

    def supervisor(self, node: str) -> int:
        """Return the pid, on this machine, of a node's supervisor: the parent of its torchrun."""
        stat = Path(f"/proc/{self.torchrun(node).pid_outside}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[1])


def kill(*pids: int) -> None:
    """Send SIGKILL to processes of the cluster's hosts."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def cut(case: Case, node: str, seconds: float | None = None) -> None:
    """Pull a host's cable, for good or for some seconds."""
    case.cluster[node].cut()
    if seconds is None:
        case.healed.append(case.cluster[node].restore)
    else:
        time.sleep(seconds)
        case.cluster[node].restore()


def control(number: int) -> Callable[[Case], None]:
    """Return a fault that sends a signal to the control process."""

    def fault(case: Case) -> None:
        assert case.process is not None
        case.process.send_signal(number)

    return fault


def kill_everything(host: NodeHost) -> None:
    """Kill every process of a host but the one that keeps it up, sshd's sessions last."""
    processes = host.processes()
    for process in sorted(processes, key=lambda each: "sshd" in (each.argv or [""])[0]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid_outside, signal.SIGKILL)


def small_disk(case: Case) -> None:
    """Put node2's working folders and logs on a disk of four megabytes."""
    runs = "/run/node-home/orch-work/runs/node2"
    script = f"mkdir -p {runs} && mount -t tmpfs -o size=4m small {runs}"
    assert case.cluster["node2"].run("sh", "-c", script).returncode == 0
    case.healed.append(lambda: case.cluster["node2"].run("umount", "-l", runs))


def second_sshd(case: Case) -> None:
    """Let node2 be reached through a second sshd that can be killed; the first is the host's process 1."""
    host = case.cluster["node2"]
    daemon = subprocess.Popen(
        host.enter("/usr/sbin/sshd", "-D", "-e", "-p", "2222"),
        env=host.login(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    key = (host.folder / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2]
    per_host = {"node2": {"port": 2222, "host_key": " ".join(key)}}
    (case.folder / "hosts.yaml").write_text(case.cluster.hosts_yaml(per_host=per_host))
    case.healed.append(daemon.kill)
    deadline = time.monotonic() + START_LIMIT
    while host.run("sh", "-c", "grep -q ':08AE .* 0A ' /proc/net/tcp").returncode:
        assert time.monotonic() < deadline, "the second sshd does not listen"
        time.sleep(0.05)


def kill_second_sshd(case: Case) -> None:
    """Kill the second sshd that listens; open sessions have processes of their own."""
    listening = [
        each for each in case.cluster["node2"].processes() if each.argv[0].startswith("sshd: /usr/sbin/sshd -D")
    ]
    kill(*(each.pid_outside for each in listening))


@dataclass(frozen=True)
class Cell:
    """One way to break a run.

    ``exit_code`` is what the user must get, or None if the control process dies. ``says`` must be in the output.
    """

    name: str
    exit_code: int | None
    says: str
    fault: Callable[[Case], object] = lambda case: None
    script: str = HEALTHY
    before: Callable[[Case], object] = lambda case: None
    ticks: int = 150


CELLS = (
    Cell("SIGINT to orch", 130, "stopping: interrupted", control(signal.SIGINT)),
    Cell("SIGTERM to orch", 130, "stopping: SIGTERM", control(signal.SIGTERM)),
    Cell("SIGHUP to orch", None, "tick", control(signal.SIGHUP), ticks=60),
    Cell("SIGKILL to orch", None, "tick", control(signal.SIGKILL), ticks=60),
    Cell(
        "SIGKILL to one worker",
        1,
        "rank 1 on node2 was killed by SIGKILL",
        lambda c: kill(c.workers("node2")[0].pid_outside),
    ),
    Cell(
        "SIGKILL to one torchrun",
        1,
        "torchrun on node2 was killed by SIGKILL",
        lambda c: kill(c.torchrun("node2").pid_outside),
    ),
    Cell("SIGKILL to one supervisor", 1, "node2 lost its supervisor", lambda c: kill(c.supervisor("node2"))),
    Cell(
        "SIGKILL to supervisor and torchrun",
        1,
        "node2 lost its supervisor",
        lambda c: kill(c.supervisor("node2"), c.torchrun("node2").pid_outside),
    ),
    Cell(
        "SIGKILL to one sshd session",
        0,
        "node2: connected again",
        lambda c: c.cluster["node2"].kill_sshd_sessions(),
        ticks=60,
    ),
    Cell("SIGKILL to the sshd daemon", 0, "tick", kill_second_sshd, before=second_sshd),
    Cell("network of one host cut for 10 s", 0, "node2: connected again", lambda c: cut(c, "node2", 10)),
    Cell(
        "network of one host cut for good",
        4,
        "node2 was lost",
        lambda c: cut(c, "node2"),
        ticks=3000,
    ),
    Cell(
        "network of the master cut for good",
        4,
        "node1 was lost",
        lambda c: cut(c, "node1"),
        ticks=3000,
    ),
    Cell(
        "all processes of one host killed",
        1,
        "node2 lost its supervisor",
        lambda c: kill_everything(c.cluster["node2"]),
    ),
    Cell("disk of one host full", 1, "a disk of this node is full", script=FILLS, before=small_disk),
    Cell("worker raises", 1, "cause: ValueError: bad batch", script=RAISES),
    Cell("worker segfaults", 1, "rank 1 on node2 was killed by SIGSEGV", script=SEGFAULTS),
    Cell("worker killed by SIGKILL from within", 1, "rank 1 on node2 was killed by SIGKILL", script=KILLED),
    Cell("others hang in a collective", 1, "cause: ValueError: bad batch", script=HANGS),
)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a cell.

    ``goes_on`` and ``left`` count processes with a run's mark: when the control process has died, and at the very end.
    """

    cell: Cell
    exit_code: int
    seconds: float
    seen: str
    goes_on: int
    left: int

    @property
    def ok(self) -> bool:
        """Whether the outcome is as the cell requires."""
        return self.left == 0 and self.cell.says in self.seen and self.exit_code == (self.cell.exit_code or 0)


@contextlib.contextmanager
def case_for(cluster: Cluster, cell: Cell, folder: Path) -> Iterator[Case]:
    """Yield a case in a folder with the cell's script; at the end, repair what the cell broke."""
    case = Case(cluster, folder)
    (folder / "hosts.yaml").write_text(cluster.hosts_yaml())
    (folder / "script.py").write_text(cell.script)
    try:
        yield case
    finally:
        while case.healed:
            case.healed.pop()()
        if case.process is not None and case.process.poll() is None:
            case.process.kill()
            case.process.wait()


def broken(cluster: Cluster, cell: Cell, folder: Path) -> Outcome:
    """Run a cell. If the control process dies, attach from another folder and follow the run to its end."""
    with case_for(cluster, cell, folder) as case:
        cell.before(case)
        case.start("--env", f"TICKS={cell.ticks}", "script.py")
        assert case.process is not None
        began = time.monotonic()
        cell.fault(case)
        code = case.process.wait(END_LIMIT)
        seen, goes_on = case.output(), 0
        if cell.exit_code is None:
            goes_on = len(case.marked())
            (folder / "elsewhere").mkdir()
            attached = case.orch("attach", folder=folder / "elsewhere")
            code, seen = attached.returncode, attached.stdout + attached.stderr
            for rank in range(3):
                ticks = [line.split()[-1] for line in attached.stdout.splitlines() if f":{rank}] tick" in line]
                assert ticks == [str(number) for number in range(len(ticks))] and len(ticks) == cell.ticks, (
                    f"{ticks}\n{seen}"
                )
        seconds = time.monotonic() - began
        while case.healed:
            case.healed.pop()()
        if case.marked():
            stopped = case.orch("stop", "--all")
            assert stopped.returncode == 0, stopped.stdout + stopped.stderr
        return Outcome(cell, code, seconds, seen, goes_on, len(case.marked()))


def told(seen: str) -> str:
    """Return the most telling line of orch's own output."""
    lines = [line for line in seen.splitlines() if not line.startswith("[")]
    for word in ("failed:", "stopping:", "connected again", "collecting"):
        for position, line in enumerate(lines):
            if line.startswith(word) or (word in line and word.startswith("c")):
                cause = next((each for each in lines[position:] if each.startswith("  cause:")), "")
                return f"{line.strip()} {cause.strip()}".strip()
    return lines[-1] if lines else ""


def main() -> None:
    """Run the cells and print the table."""
    words = sys.argv[1:]
    cells = [cell for cell in CELLS if not words or any(word in cell.name for word in words)]
    outcomes = []
    with Cluster(3, python=sys.executable) as cluster:
        for cell in cells:
            with tempfile.TemporaryDirectory() as folder:
                outcomes.append(broken(cluster, cell, Path(folder)))
            outcome = outcomes[-1]
            went_on = f"goes on with {outcome.goes_on} processes, attached: " if outcome.goes_on else ""
            print(
                f"{'ok ' if outcome.ok else 'BAD'} {cell.name:38} exit {outcome.exit_code:3} {outcome.seconds:5.1f} s  "
                f"left {outcome.left}  {went_on}{told(outcome.seen)[:150]}",
                flush=True,
            )
            if not outcome.ok:
                print("\n".join(line[:200] for line in outcome.seen.splitlines()[-40:]))
    sys.exit(0 if all(outcome.ok for outcome in outcomes) else 1)


if __name__ == "__main__":
    main()
