"""A host of the test cluster: the commands that run on it and the faults that tests plant on it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.namespaces import files
from tests.namespaces.switch import BRIDGE, ClusterError, Switch

_START_LIMIT_S = 60.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DROPS = "planted"


@dataclass(frozen=True)
class Process:
    """A live process of a host: its pid on this machine and on the host, its arguments and environment."""

    pid_outside: int
    pid_inside: int
    argv: list[str]
    environ: dict[str, str]


def limited_to(mbit: float) -> tuple[str, ...]:
    """Return tc's words for a link that carries ``mbit`` megabits a second."""
    # A burst may hold a hundredth of a second of traffic, and never less than a few full segments.
    burst = max(32_000, int(mbit * 1e6 / 8 / 100))
    return ("tbf", "rate", f"{int(mbit * 1e6)}bit", "burst", f"{burst}b", "latency", "200ms")


class NodeHost:
    """A host with its own network, mounts, processes, hostname and home, and a real sshd as process 1.

    ``home`` is the folder behind root's home (``files.NODE_HOME`` on the host), ``port`` the switch's interface
    that leads to the host, ``log`` the output of its start and its sshd. Faults last until they are undone or
    the host is killed. All methods raise ``ClusterError`` when the system refuses.
    """

    def __init__(self, switch: Switch, name: str, address: str, port: str) -> None:
        self.name = name
        self.address = address
        self.port = port
        self.folder = switch.folder / name
        self.home = self.folder / "home"
        self.log = self.folder / "log"
        self._switch = switch
        self._init: int | None = None
        self._sshd_options: dict[str, str] = {}
        self._neighbours: list[str] = []

    def prepare(
        self,
        *,
        hosts: str,
        authorized_keys: str,
        password: str | None,
        sshd_options: Mapping[str, str],
        visible: list[Path],
        neighbours: list[str],
    ) -> str:
        """Write the host's files, make its key and return the public half."""
        self._neighbours = neighbours
        self._sshd_options = dict(sshd_options)
        return files.write_node(
            self.folder,
            self.name,
            self.address,
            home=self.home,
            hosts=hosts,
            authorized_keys=authorized_keys,
            password=password,
            sshd=files.sshd_config(self.address, self._sshd_options),
            visible=visible,
        )

    @property
    def pid(self) -> int:
        """The pid, on this machine, of the host's process 1."""
        if self._init is None:
            raise ClusterError(f"{self.name}: switched off")
        return self._init

    @property
    def root(self) -> Path:
        """The file system as the host sees it, for reading and writing from outside."""
        return Path("/proc", str(self.pid), "root")

    def start(self) -> None:
        """Power the host on, with the name, key and home it had before, and wait until sshd greets."""
        self.power_on()
        self.await_sshd()

    def power_on(self) -> None:
        if self._init is not None:
            raise ClusterError(f"{self.name}: already on")
        files.write_boot(self.folder, self.address, port=self.port, bridge=BRIDGE, neighbours=self._neighbours)
        self._init = self._switch.power_on(self.name)

    def await_sshd(self) -> None:
        # A connection tried before the address is up would wait a second for its next ARP request.
        self._await(lambda: self._listener() is not None, "its sshd does not listen")
        self._await(self._greets, "its sshd does not answer")

    def kill(self) -> None:
        """Switch the machine off: take the link down, so that peers hear nothing, then SIGKILL every process.

        Does nothing if the host is off.
        """
        if self._init is None:
            return
        with contextlib.suppress(ClusterError):  # the port is gone if the host has ended by itself
            self.cut()
        self._init = None
        self._switch.power_off(self.name)
        # The kernel deletes the port with the host's network, but later, and a new port must not collide with it.
        with contextlib.suppress(ClusterError):
            self._switch.ip(f"link delete {self.port}")

    def run(
        self,
        *argv: str | Path,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 30,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host as root's login would: own environment, home as working folder.

        The caller checks the exit code. After ``timeout`` seconds the command is killed and
        ``subprocess.TimeoutExpired`` is raised.
        """
        return subprocess.run(
            self.enter(*argv),
            input=input,
            env=self.login(env),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def enter(self, *argv: str | Path) -> list[str]:
        """Return the command line, for this machine, that runs ``argv`` on the host; for ``subprocess.Popen``.

        Pass ``login()`` as its environment. The command on the host dies with the process started here.
        """
        nsenter = shutil.which("nsenter") or "nsenter"
        spaces = ("--mount", "--uts", "--ipc", "--net", "--pid")
        inside = ("setpriv", "--pdeathsig", "KILL", "env", f"--chdir={files.NODE_HOME}")
        return [nsenter, "--target", str(self.pid), *spaces, *inside, *map(str, argv)]

    def login(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment of root's login on the host, extended by ``env``."""
        base = {"HOME": files.NODE_HOME, "USER": "root", "LOGNAME": "root", "SHELL": "/bin/sh", "PATH": _PATH}
        return {**base, "LANG": "C.UTF-8", **(env or {})}

    def processes(self) -> list[Process]:
        """Return every live process of the host except process 1, the listening sshd."""
        if self._init is None:
            return []
        space = _pid_space(self._init)
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            pid = int(entry.name)
            if pid != self._init and _pid_space(pid) == space:
                with contextlib.suppress(OSError):
                    found.append(_read_process(pid))
        return [process for process in found if process is not None]

    def cut(self) -> None:
        """Pull the cable: packets vanish both ways and connections go silent; none is reset."""
        self._switch.ip(f"link set {self.port} down")

    def restore(self) -> None:
        """Put the cable back."""
        self._switch.ip(f"link set {self.port} up")

    def slow(self, mbit: float) -> None:
        """Limit the link to ``mbit`` megabits a second each way, replacing an earlier limit."""
        limit = limited_to(mbit)
        self._inside("tc", "qdisc", "replace", "dev", "eth0", "root", *limit)
        self._switch.run("tc", "qdisc", "replace", "dev", self.port, "root", *limit)

    def unslow(self) -> None:
        """Remove the limit, if there is one."""
        for delete in (
            lambda: self._inside("tc", "qdisc", "delete", "dev", "eth0", "root"),
            lambda: self._switch.run("tc", "qdisc", "delete", "dev", self.port, "root"),
        ):
            with contextlib.suppress(ClusterError):
                delete()

    def drop(self, nft_rule_body: str) -> None:
        """Add a rule to the host's input chain, e.g. ``tcp dport 29500 drop`` or ``… reject``."""
        self._inside(
            *("nft", "-f", "-"),
            text=f"table inet {_DROPS} {{ chain input {{ type filter hook input priority 0; }}; }}\n"
            f"add rule inet {_DROPS} input {nft_rule_body}\n",
        )

    def clear_drops(self) -> None:
        """Remove every rule that ``drop`` added."""
        self._inside("nft", "-f", "-", text=f"table inet {_DROPS}\ndelete table inet {_DROPS}\n")

    def kill_sshd_sessions(self) -> list[int]:
        """Kill the sshd process of every open connection, not what it started; return the pids killed."""
        killed = []
        for process in self.processes():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{process.pid_outside}/exe").readlink().name.startswith("sshd"):
                    os.kill(process.pid_outside, signal.SIGKILL)
                    killed.append(process.pid_outside)
        return killed

    def restart_sshd(self, options: Mapping[str, str] | None = None) -> None:
        """Restart the listening sshd, with ``options`` changed in its configuration; sessions go on.

        The options stay changed, also through ``kill`` and ``start``.
        """
        self._sshd_options.update(options or {})
        (self.folder / "etc/ssh/sshd_config").write_text(files.sshd_config(self.address, self._sshd_options))
        before = self._listener()
        os.kill(self.pid, signal.SIGHUP)
        self._await(lambda: self._listener() not in (None, before), "its sshd did not listen again")
        self._await(self._greets, "its sshd does not answer")

    def _inside(self, *argv: str, text: str | None = None) -> None:
        done = self.run(*argv, input=text)
        if done.returncode != 0:
            raise ClusterError(
                f"{self.name}: {' '.join(argv)}: {(done.stderr or done.stdout).strip()} {text or ''}".strip()
            )

    def _listener(self) -> str | None:
        """Return the inode of the socket that listens on the host's port 22, or None."""
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[1].endswith(":0016") and fields[3] == "0A":
                    return fields[9]
        return None

    def _greets(self) -> bool:
        try:
            with socket.create_connection((self.address, 22), 5) as connection:
                return connection.recv(64).startswith(b"SSH-2.0-")
        except OSError:
            return False

    def _await(self, condition: Callable[[], bool], complaint: str) -> None:
        deadline = time.monotonic() + _START_LIMIT_S
        while not condition():
            ended = not Path(f"/proc/{self.pid}").exists()
            if ended or time.monotonic() > deadline:
                written = self.log.read_text(errors="replace").strip()[-600:] or "nothing"
                raise ClusterError(f"{self.name}: {'it ended' if ended else complaint}; it wrote: {written}")
            time.sleep(0.01)


def _pid_space(pid: int) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return None


def _read_process(pid: int) -> Process | None:
    status = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
        if ":" in line
    )
    if status["State"].strip().startswith(("Z", "X")):
        return None
    argv = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    pairs = (variable.partition(b"=") for variable in environ if b"=" in variable)
    return Process(
        pid_outside=pid,
        pid_inside=int(status["NSpid"].split()[-1]),
        argv=[os.fsdecode(word) for word in argv],
        environ={os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs},
    )
