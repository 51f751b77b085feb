"""The process that keeps a cluster up: its network namespace is the switch, its children are the hosts.

``Switch`` runs it as a script, ``keeper.py FOLDER SSHD 0|1``. The keeper reads one order a line on standard input,
``ready``, ``on NAME`` or ``off NAME``, and answers each with one line: the verb, for ``on`` the pid of the host's
process 1 (as seen here), or ``error`` and a reason. When standard input ends, because the maker closed it or died,
the keeper ends every host, deletes FOLDER if the last argument is 1, and exits. Hosts get a parent-death signal, so
not even SIGKILL of the keeper leaves one behind. That signal follows the *thread* that made the child, so this
single-threaded process makes them, not the test process.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

# `unshare` stays as the parent of process 1 and ends with it.
_HOLD = (
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"),
)
_FORK_LIMIT_S = 20.0


def _child_of(pid: int) -> int | None:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    return int(children[0]) if children else None


def _start(node: Path, sshd: str, switch: int) -> subprocess.Popen[bytes]:
    with (node / "log").open("ab") as log:
        return subprocess.Popen(
            [*_HOLD, "sh", str(Path(__file__).with_name("init.sh")), str(node), sshd],
            stdin=switch,
            stdout=log,
            stderr=log,
            cwd="/",
        )


def _init_of(holder: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + _FORK_LIMIT_S
    while time.monotonic() < deadline and holder.poll() is None:
        pid = _child_of(holder.pid)
        if pid is not None:
            return pid
        time.sleep(0.0005)
    raise RuntimeError(f"the namespaces were not made (exit code {holder.poll()})")


def _kill(holder: subprocess.Popen[bytes]) -> None:
    """Kill the host's process 1, and with it all its processes; the holder then ends by itself."""
    if holder.poll() is None:
        init = _child_of(holder.pid)
        os.kill(init if init is not None else holder.pid, signal.SIGKILL)


def _obey(folder: Path, sshd: str, holders: dict[str, subprocess.Popen[bytes]]) -> None:
    switch = os.open("/proc/self/ns/net", os.O_RDONLY)
    for line in sys.stdin:
        verb, _, name = line.strip().partition(" ")
        try:
            if verb == "ready":
                answer = "ready"
            elif verb == "on":
                holders[name] = _start(folder / name, sshd, switch)
                answer = str(_init_of(holders[name]))
            else:
                _kill(holders[name])
                holders.pop(name).wait()
                answer = "off"
        except (OSError, RuntimeError, KeyError) as error:
            answer = f"error {name}: {error}".replace("\n", " ")
        print(answer, flush=True)


def main() -> None:
    folder, sshd, owned = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "1"
    with contextlib.suppress(OSError):  # this only spares the switch the ports' IPv6 traffic
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
    holders: dict[str, subprocess.Popen[bytes]] = {}
    try:
        _obey(folder, sshd, holders)
    except BrokenPipeError:
        # The maker died while an answer was on its way.
        sys.stdout = None  # otherwise the interpreter complains when it flushes at exit
    finally:
        for holder in holders.values():
            _kill(holder)
        for holder in holders.values():
            holder.wait()
        if owned:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
