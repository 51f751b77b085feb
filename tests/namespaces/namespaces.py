"""A cluster of hosts on one machine, made of Linux namespaces, each with a real OpenSSH sshd.

The hosts share this machine's programs and devices. Each has its own network (one link, to the switch), process
ids, hostname, System V IPC, ``/etc`` identity, home, ``/run``, ``/tmp`` and ``/dev/shm``. There is no route out.
"""

import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from tests.namespaces import files
from tests.namespaces.host import NodeHost, limited_to
from tests.namespaces.switch import PATH, UPLINK, ClusterError, Switch, command

MOST_HOSTS = 200
# The kernel keeps one table of neighbours, of 1024 entries by default, for all network namespaces together. A full
# mesh of more hosts than this overflows it, so larger clusters get permanent entries, which do not count.
_MOST_ASKING = 20
_FOLDER = "orch-cluster-"
_TOOLS = {
    **dict.fromkeys(("ip", "tc"), "iproute2"),
    **dict.fromkeys(("ssh", "ssh-keygen"), "openssh-client"),
    **dict.fromkeys(("unshare", "nsenter", "setpriv"), "util-linux"),
    "mount": "mount",
    "nft": "nftables",
    "sshd": "openssh-server",
}
_TRIAL = """
set -e
ip link add name trial type bridge
ip link add name a type veth peer name b
tc qdisc add dev a root tbf rate 1mbit burst 32000b latency 200ms
nft add table inet trial
mount -t sysfs trial /sys
"""


@functools.lru_cache(maxsize=1)
def missing() -> str | None:
    """Return in one line why a cluster cannot be made on this machine, or None if it can."""
    if os.geteuid() != 0:
        return "the cluster of namespaces needs root"
    absent = sorted({package for tool, package in _TOOLS.items() if shutil.which(tool, path=PATH) is None})
    if absent:
        return f"the cluster of namespaces needs the Debian packages {' '.join(absent)}"
    spaces = ("--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc")
    trial = subprocess.run(
        ["unshare", *spaces, "sh", "-c", _TRIAL],
        env={**os.environ, "PATH": PATH},
        capture_output=True,
        text=True,
        check=False,
    )
    if trial.returncode != 0:
        said = " ".join((trial.stderr or trial.stdout).split()) or f"exit code {trial.returncode}"
        return f"namespaces, bridges or traffic rules are refused here: {said}"
    return None


class Cluster:
    """``n`` hosts on a network of their own: a context manager, or use ``start`` and ``stop``.

    ``names`` are the first hosts' names; the rest are ``node1``, ``node2`` … by position. ``python`` is an
    interpreter for the inventory; it and the folders of ``visible`` stay readable on the hosts even under
    ``/run``, ``/tmp`` or ``/dev/shm``. ``sshd_options`` change every host's sshd. ``folder`` holds homes, keys
    and logs; a given one is kept, otherwise one is made and deleted. With ``shared_home`` all hosts share one home.
    With ``password`` root logs in with that password and with no key, and the control machine's home is empty.

    Among up to 20 hosts, dialling one that is off fails with "No route to host" after some seconds, as on any LAN;
    among more, it is never answered. The hosts end with this process, however it ends. ``ClusterError`` says what
    could not be made.
    """

    def __init__(
        self,
        n: int,
        *,
        python: str | None = None,
        names: Sequence[str] = (),
        folder: Path | None = None,
        sshd_options: Mapping[str, str] | None = None,
        visible: Sequence[Path] = (),
        shared_home: bool = False,
        password: str | None = None,
    ) -> None:
        if not 1 <= n <= MOST_HOSTS or len(names) > n:
            raise ValueError(
                f"n={n} with {len(names)} names: expected 1 to {MOST_HOSTS} hosts, no more names than hosts"
            )
        self.names = [*names, *(f"node{number}" for number in range(len(names) + 1, n + 1))]
        if len(set(self.names)) != n:
            raise ValueError(
                f"names={list(names)}: expected names that differ, from each other and from node<position>"
            )
        self.hosts: list[NodeHost] = []
        self.python = python
        self._given_folder = folder
        self._password = password
        self._sshd_options = {**(files.PASSWORD_SSHD if password else {}), **(sshd_options or {})}
        self._shared_home = shared_home
        self._visible = [*visible, *_interpreter_folders(python)]
        self._folder: Path | None = None
        self._switch: Switch | None = None

    @property
    def folder(self) -> Path:
        if self._folder is None:
            raise ClusterError("the cluster is not started")
        return self._folder

    @property
    def switch(self) -> Switch:
        """The switch, for faults on the network itself: ``switch.run("nft", …)`` runs where the bridge is."""
        if self._switch is None:
            raise ClusterError("the cluster is not started")
        return self._switch

    @property
    def control_home(self) -> Path:
        """The home folder of a control process."""
        return self.folder / "control"

    @property
    def known_hosts(self) -> Path:
        """Every host's key, by address and by name. With a password, the control machine's home lacks the file."""
        return (self.control_home / ".ssh" if self._password is None else self.folder) / "known_hosts"

    @property
    def identity_file(self) -> Path:
        """The private key that root of every host accepts, unless there is a password."""
        return self.control_home / ".ssh" / "id_ed25519"

    def start(self) -> None:
        """Make the cluster, power it on and wait until every sshd answers; on failure, undo everything."""
        if self._switch is not None:
            raise ClusterError("the cluster is started already")
        reason = missing()
        if reason is not None:
            raise ClusterError(reason)
        _sweep()
        try:
            self._make()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every process and remove every interface, namespace and file. Safe at any time, also twice."""
        switch, self._switch = self._switch, None
        folder, self._folder = self._folder, None
        self.hosts = []
        if switch is not None:
            switch.stop()
        # The keeper deletes the folder, unless the keeper never ran or could not.
        if folder is not None and self._given_folder is None:
            shutil.rmtree(folder, ignore_errors=True)

    def __enter__(self) -> "Cluster":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __getitem__(self, name: str) -> NodeHost:
        """Return the host of this name."""
        return next(host for host in self.hosts if host.name == name)

    def hosts_yaml(
        self, *, per_host: Mapping[str, Mapping[str, object]] | None = None, **top_level: object
    ) -> str:
        """Return the inventory's text: ``cluster``, ``defaults`` with user and key, ``hosts`` in order.

        ``per_host`` adds keys to hosts by name, ``top_level`` adds to the whole; its ``defaults`` are merged.
        """
        defaults: dict[str, object] = {
            "user": "root",
            **({"identity_file": str(self.identity_file)} if self._password is None else {}),
            # All hosts share this machine's cores, and torch threads that wait for each other would waste them.
            "env": {"OMP_NUM_THREADS": "1"},
        }
        if self.python is not None:
            defaults["python"] = self.python
        given = top_level.pop("defaults", None)
        defaults.update(given if isinstance(given, dict) else {})
        top: dict[str, object] = {"cluster": "namespaces", "defaults": defaults, **top_level}
        extra = per_host or {}
        lines = [f"{key}: {json.dumps(value)}" for key, value in top.items()]
        hosts = [
            f"  {host.name}: {json.dumps({'address': host.address, **extra.get(host.name, {})})}"
            for host in self.hosts
        ]
        return "\n".join([*lines, "hosts:", *hosts]) + "\n"

    def control_env(self) -> dict[str, str]:
        """Return this process's environment, but with a HOME that has key and known hosts, and no SSH agent."""
        env = {name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"}
        return {**env, "HOME": str(self.control_home)}

    def ssh(self, host: NodeHost, *argv: str) -> list[str]:
        """Return the command line of plain ``ssh``, with all files named because ``ssh`` ignores ``$HOME``."""
        known = f'UserKnownHostsFile="{self.known_hosts}"'
        if self._password is not None:
            return ["ssh", "-F", "none", "-o", known, f"root@{host.address}", *argv]
        options = (
            known,
            "GlobalKnownHostsFile=none",
            "StrictHostKeyChecking=yes",
            "BatchMode=yes",
            "IdentitiesOnly=yes",
        )
        words = [word for option in options for word in ("-o", option)]
        return ["ssh", "-F", "none", "-i", str(self.identity_file), *words, f"root@{host.address}", *argv]

    def cut_control(self) -> None:
        """Cut this machine off from all hosts, silently; the hosts still reach each other."""
        self.switch.ip(f"link set {UPLINK} down")

    def restore_control(self) -> None:
        self.switch.ip(f"link set {UPLINK} up")

    def slow_control(self, mbit: float) -> None:
        """Limit this machine's link to the hosts to ``mbit`` megabits a second each way."""
        limit = limited_to(mbit)
        self.switch.run("tc", "qdisc", "replace", "dev", UPLINK, "root", *limit)
        command(["tc", "qdisc", "replace", "dev", self.switch.uplink, "root", *limit])

    def _make(self) -> None:
        if self._given_folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix=f"{_FOLDER}{os.getpid()}-"))
        else:
            self._folder = self._given_folder.absolute()
        self._switch = Switch(self._folder, delete_folder=self._given_folder is None)
        self._switch.start()
        addresses = [f"{self._switch.prefix}.1.{number}" for number in range(1, len(self.names) + 1)]
        self.hosts = [
            NodeHost(self._switch, name, address, f"port{number}")
            for number, (name, address) in enumerate(zip(self.names, addresses, strict=True), start=1)
        ]
        if self._shared_home:
            for host in self.hosts:
                host.home = self.hosts[0].home
        self.control_home.mkdir(parents=True, mode=0o700)
        authorized_keys = ""
        if self._password is None:
            self.known_hosts.parent.mkdir(mode=0o700)
            authorized_keys = files.keygen(self.identity_file, "control") + "\n"

        def boot(host: NodeHost) -> str:
            others = [other for other in self.hosts if other is not host]
            key = host.prepare(
                hosts="".join(f"{other.address} {other.name}\n" for other in others),
                neighbours=[other.address for other in others] if len(self.hosts) > _MOST_ASKING else [],
                authorized_keys=authorized_keys,
                password=self._password,
                sshd_options=self._sshd_options,
                visible=self._visible,
            )
            host.power_on()
            return f"{host.address},{host.name} {key}\n"

        with ThreadPoolExecutor(min(len(self.hosts), 2 * (os.cpu_count() or 1))) as pool:
            self.known_hosts.write_text("".join(pool.map(boot, self.hosts)))
            list(pool.map(NodeHost.await_sshd, self.hosts))


def _interpreter_folders(python: str | None) -> list[Path]:
    """Return the folders of an interpreter: its virtual environment and the installation behind it."""
    if python is None or not Path(python).is_absolute():
        return []
    return sorted({Path(python).parent.parent, Path(python).resolve().parent.parent})


def _sweep() -> None:
    """Delete the folders of makers that have died. Their hosts and networks ended with them."""
    for left in Path(tempfile.gettempdir()).glob(f"{_FOLDER}*-*"):
        pid = left.name.removeprefix(_FOLDER).partition("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(left, ignore_errors=True)
