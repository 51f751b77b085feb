"""Control of the embedded cluster's server process: start it, find it, end it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.errors import OrchError, UsageError

START_TIMEOUT = 20.0
STOP_TIMEOUT = 5.0


@dataclass(frozen=True)
class SandboxHost:
    """Access data of one host of the embedded cluster. ``host_key`` is ``type base64``."""

    name: str
    address: str
    port: int
    user: str
    identity_file: str
    host_key: str
    home: str


def sandbox_folder(hosts_file: Path, cluster: str, home: Path) -> Path:
    """Return the folder in which the cluster of a hosts file keeps its keys and its hosts' homes."""
    digest = hashlib.sha256(str(hosts_file.resolve()).encode()).hexdigest()
    return home / ".orch" / "sandbox" / f"{cluster}-{digest[:8]}"


class Sandbox:
    """One embedded cluster; its folder keeps keys and homes from one start to the next."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.names = tuple(names)
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def _state(self) -> Path:
        return self.folder / "server.json"

    def start(self, *, keep: bool) -> tuple[SandboxHost, ...]:
        """Start the servers, or use kept ones that run already; return their hosts.

        Without ``keep`` the servers end with this process, however it ends. Raises UsageError if other hosts are
        being served from this folder, OrchError if the servers do not start.
        """
        running = self.status()
        if running is not None:
            if {host.name for host in running} != set(self.names):
                raise UsageError("the sandbox runs with other hosts", remedy="run orch sandbox down first")
            return running
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = self.folder / f"server-{os.getpid()}.json" if not keep else self._state
        state.unlink(missing_ok=True)
        with (self.folder / "server.log").open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.sandbox", str(self.folder), str(state), *self.names],
                # Without keep, the server ends when this pipe closes.
                stdin=subprocess.DEVNULL if keep else subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "ORCH_SANDBOX_KEEP": "1" if keep else ""},
            )
        self._child = None if keep else child
        try:
            return self._await(child, state)
        finally:
            if not keep:
                state.unlink(missing_ok=True)

    def _await(self, child: subprocess.Popen[bytes], state: Path) -> tuple[SandboxHost, ...]:
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):
                return _hosts(json.loads(state.read_text()))
            if child.poll() is not None:
                break
            time.sleep(0.01)
        child.kill()
        said = (self.folder / "server.log").read_text(errors="replace").strip().splitlines()
        raise OrchError(
            f"the sandbox's servers did not start: {said[-1] if said else 'they said nothing'}",
            remedy=f"read their log: {self.folder / 'server.log'}",
        )

    def release(self) -> None:
        """End the servers if ``start(keep=False)`` of this object started them."""
        if self._child is not None and self._child.stdin is not None:
            self._child.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(STOP_TIMEOUT)
            self._child = None

    def status(self) -> tuple[SandboxHost, ...] | None:
        """Return the hosts that a kept server serves; None if none runs."""
        try:
            state = json.loads(self._state.read_text())
        except (OSError, ValueError):
            return None
        return _hosts(state) if _began(state["pid"]) == state["began"] else None

    def stop(self) -> bool:
        """End a kept server; return whether one was running."""
        if self.status() is None:
            return False
        state = json.loads(self._state.read_text())
        self._state.unlink(missing_ok=True)
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + STOP_TIMEOUT
            with contextlib.suppress(ProcessLookupError):
                os.kill(state["pid"], number)
            while _began(state["pid"]) == state["began"]:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.01)
            else:
                return True
        return True


def write_state(path: Path, hosts: Sequence[SandboxHost]) -> None:
    """Record, with one rename, that this process serves these hosts."""
    state = {"pid": os.getpid(), "began": _began(os.getpid()), "hosts": [asdict(host) for host in hosts]}
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(state))
    partial.replace(path)


def _hosts(state: dict[str, list[dict[str, str]]]) -> tuple[SandboxHost, ...]:
    return tuple(SandboxHost(**{**host, "port": int(host["port"])}) for host in state["hosts"])  # type: ignore[arg-type]


def _began(pid: int) -> str | None:
    """Return when a process began, to tell it from a later one with its id; None if it has ended."""
    if sys.platform != "linux":
        argv = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
        state, _, began = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.partition(" ")
        return None if not state or state.startswith("Z") else began.strip()
    try:
        # The start time is in clock ticks since boot (proc_pid_stat(5)).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
