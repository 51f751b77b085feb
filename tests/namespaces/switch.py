"""The network between the hosts and this machine, and the keeper process that holds it up."""

import contextlib
import ipaddress
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

BRIDGE = "switch"
UPLINK = "uplink"
PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
"""Where this machine's tools are; the PATH of a plain user's ``su`` lacks the second half."""
_LIMIT_S = 60.0
_serial = itertools.count()


class ClusterError(Exception):
    """The cluster or a fault could not be made; the message names the host and what the tool answered."""


def command(argv: Iterable[str], text: str | None = None, limit_s: float = _LIMIT_S) -> str:
    """Run a command and return its standard output. Raises ``ClusterError`` with its complaint if it fails."""
    argv = list(argv)
    env = {**os.environ, "PATH": PATH}
    done = subprocess.run(argv, input=text, env=env, capture_output=True, text=True, timeout=limit_s, check=False)
    if done.returncode != 0:
        raise ClusterError(
            f"{' '.join(argv)}: exit code {done.returncode}: {(done.stderr or done.stdout).strip()}"
        )
    return done.stdout


class Network:
    """A /16 of 10.0.0.0/8 that nothing on this machine uses, reserved until ``close``."""

    def __init__(self) -> None:
        taken = list(_networks_in_use())
        for second in range(213, 255):
            candidate = ipaddress.IPv4Network(f"10.{second}.0.0/16")
            if any(candidate.overlaps(other) for other in taken):
                continue
            # An abstract socket name is unique in this network namespace and freed when its owner dies.
            self._claim = socket.socket(socket.AF_UNIX)
            try:
                self._claim.bind(f"\0cluster-network-{candidate}")
            except OSError:
                self._claim.close()
                continue
            self.prefix = f"10.{second}"
            return
        raise ClusterError("no free network of 10.213.0.0/16 … 10.254.0.0/16 on this machine")

    def close(self) -> None:
        self._claim.close()


def _networks_in_use() -> Iterator[ipaddress.IPv4Network]:
    for link in json.loads(command(["ip", "-j", "-4", "address"]) or "[]"):
        for address in link.get("addr_info", []):
            yield ipaddress.IPv4Network(address["local"])
    for route in json.loads(command(["ip", "-j", "-4", "route"]) or "[]"):
        if "gateway" in route:
            yield ipaddress.IPv4Network(route["gateway"])
        # Wider routes (a default, a company's 10.0.0.0/8) give way to the cluster's more specific one.
        if route["dst"] != "default" and (network := ipaddress.IPv4Network(route["dst"])).prefixlen >= 16:
            yield network


class Switch:
    """A bridge in a network namespace of its own, with one uplink to the namespace of this process.

    The namespace keeps the traffic between hosts away from this machine's firewall rules and leaves a single
    interface visible here. It belongs to a keeper process (see ``keeper.py``).
    """

    def __init__(self, folder: Path, *, delete_folder: bool) -> None:
        self.folder = folder
        self.uplink = f"orch{os.getpid():x}-{next(_serial)}"
        self._delete_folder = delete_folder
        self._network: Network | None = None
        self._keeper: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    @property
    def pid(self) -> int:
        """The keeper's process id."""
        if self._keeper is None:
            raise ClusterError("the cluster is not started")
        return self._keeper.pid

    @property
    def prefix(self) -> str:
        """The first two numbers of all addresses."""
        if self._network is None:
            raise ClusterError("the cluster is not started")
        return self._network.prefix

    def start(self) -> None:
        self._network = Network()
        sshd = shutil.which("sshd", path=PATH) or "sshd"
        keeper = Path(__file__).with_name("keeper.py")
        self._keeper = subprocess.Popen(
            [
                *("unshare", "--net", sys.executable, "-I", "-S"),
                *(str(keeper), str(self.folder), sshd, "1" if self._delete_folder else "0"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={**os.environ, "PATH": PATH},
            start_new_session=True,  # Ctrl-C in a terminal is for the maker, which then stops the keeper in order
        )
        self._order("ready")
        self.ip(
            f"link add name {BRIDGE} type bridge forward_delay 0 stp_state 0 mcast_snooping 0", "link set lo up"
        )
        here = [
            f"link add name {self.uplink} type veth peer name {UPLINK} netns {self.pid}",
            f"link set {self.uplink} addrgenmode none",
            f"address add {self.prefix}.0.1/16 dev {self.uplink}",
            f"link set {self.uplink} up",
        ]
        command(["ip", "-batch", "-"], "\n".join(here) + "\n")
        self.ip(f"link set {UPLINK} master {BRIDGE} up", f"link set {BRIDGE} up")

    def stop(self) -> None:
        """End every host and the keeper, and remove the uplink. Safe at any time, also twice."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            with contextlib.suppress(ClusterError):  # there is no uplink if the start failed early
                command(["ip", "link", "delete", self.uplink])
            assert keeper.stdin is not None and keeper.stdout is not None
            with contextlib.suppress(OSError):  # the keeper may have been killed
                keeper.stdin.close()
            try:
                keeper.wait(_LIMIT_S)
            except subprocess.TimeoutExpired:
                keeper.kill()
                keeper.wait()
            keeper.stdout.close()
        if self._network is not None:
            self._network.close()
            self._network = None

    def power_on(self, name: str) -> int:
        """Start the host whose folder has this name and return the pid of its process 1."""
        return int(self._order(f"on {name}"))

    def power_off(self, name: str) -> None:
        """Kill every process of a host and wait until the last is gone."""
        self._order(f"off {name}")

    def run(self, *argv: str, text: str | None = None) -> str:
        """Run ``nft``, ``tc``, ``bridge`` … in the switch's network namespace and return the standard output."""
        return command(["nsenter", f"--net=/proc/{self.pid}/ns/net", *argv], text)

    def ip(self, *lines: str) -> None:
        """Run commands of ``ip -batch`` in the switch's network namespace."""
        self.run("ip", "-batch", "-", text="\n".join(lines) + "\n")

    def _order(self, line: str) -> str:
        keeper = self._keeper
        if keeper is None:
            raise ClusterError("the cluster is not started")
        assert keeper.stdin is not None and keeper.stdout is not None
        with self._lock:
            try:
                keeper.stdin.write(line + "\n")
                keeper.stdin.flush()
                answer = keeper.stdout.readline().strip()
            except OSError as error:
                raise ClusterError(f"the keeper of the cluster is gone: {error}") from None
        if not answer or answer.startswith("error"):
            raise ClusterError(answer or f"the keeper of the cluster ended (exit code {keeper.poll()})")
        return answer
