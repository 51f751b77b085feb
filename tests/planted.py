"""Faults to plant on hosts of the test cluster, and what doctor must say about each."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.namespaces import Cluster, NodeHost
from tests.namespaces.files import NODE_HOME


@dataclass
class FaultyCluster:
    """The cluster that faults are planted on; ``undo`` removes them.

    ``words`` are further arguments of doctor, ``project`` the files of the folder that doctor is called in.
    """

    cluster: Cluster
    undo: contextlib.ExitStack
    per_host: dict[str, dict[str, object]] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    project: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> NodeHost:
        return self.cluster[name]

    @property
    def peers(self) -> str:
        """The addresses of node1 and node3 as a set of nft."""
        return f"{{ {self['node1'].address}, {self['node3'].address} }}"

    def sh(self, name: str, script: str) -> str:
        """Run a shell script on a host and return its output."""
        done = self[name].run("sh", "-c", script)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def drop(self, name: str, rule: str) -> None:
        """Add a firewall rule on a host."""
        self[name].drop(rule)
        self.undo.callback(self[name].clear_drops)

    def file(self, name: str, path: str, text: str) -> None:
        """Write an executable file in a host's home."""
        file = self[name].home / path
        before = file.read_text() if file.exists() else None
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
        self.undo.callback(lambda: file.unlink() if before is None else file.write_text(before))

    def mount(self, name: str, where: str, options: str, *, writes: str = "") -> None:
        """Mount a file system of its own over a folder of a host."""
        self.sh(name, f"mkdir -p {where} && mount -t tmpfs -o {options} planted {where} {writes}")
        self.undo.callback(lambda: self.sh(name, f"umount -l {where}"))

    def process(self, name: str, *argv: str, **env: str) -> None:
        """Start a process on a host and wait until it prints ``up``."""
        host = self[name]
        child = subprocess.Popen(host.enter(*argv), env=host.login(env), stdout=subprocess.PIPE)
        self.undo.callback(child.communicate)
        self.undo.callback(child.kill)
        assert child.stdout and child.stdout.readline() == b"up\n"

    def sshd(self, name: str, options: dict[str, str], usual: dict[str, str]) -> None:
        """Change the configuration of a host's sshd; ``usual`` is what ``undo`` sets again."""
        self[name].restart_sshd(options)
        self.undo.callback(lambda: self[name].restart_sshd(usual))


def off(p: FaultyCluster) -> None:
    p["node3"].kill()
    p.undo.callback(p["node3"].start)
    p.words += ["--connect-timeout", "3"]


def wrong_key(p: FaultyCluster) -> None:
    folder = Path(p.cluster.control_env()["HOME"])
    key = folder / "wrong"
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    p.per_host["node2"] = {"identity_file": str(key)}


def port_busy(p: FaultyCluster) -> None:
    code = "import socket,time; s=socket.create_server(('',29511)); print('up', flush=True); time.sleep(600)"
    p.process("node1", "python3", "-c", code)
    p.words += ["--port", "29511"]


def twins(p: FaultyCluster) -> None:
    for host in p.cluster.hosts:
        p.sh(
            host.name,
            "ip link add dock0 type bridge && ip addr add 172.30.0.1/16 dev dock0 && ip link set dock0 up",
        )
        p.undo.callback(lambda name=host.name: p.sh(name, "ip link delete dock0"))


def loopback_name(p: FaultyCluster) -> None:
    file = p["node2"].folder / "etc" / "hosts"
    before = file.read_text()
    # The file is written in place, because the host has this very inode mounted.
    file.write_text(before.replace(f"{p['node2'].address} node2", "127.0.1.1 node2"))
    p.undo.callback(lambda: file.write_text(before))


def no_torch(p: FaultyCluster) -> None:
    folder = p["node2"].home / "standin"
    for name in ("torch", "torch-2.15.0.dist-info"):
        (folder / name).rename(folder / f"{name}.away")
        p.undo.callback(lambda name=name: (folder / f"{name}.away").rename(folder / name))


def other_torch(p: FaultyCluster) -> None:
    p.file(
        "node2", "standin/torch-2.15.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: torch\nVersion: 2.14.1\n"
    )
    about = "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.30.0\nRequires-Dist: torch==2.14.1\n"
    p.file("node2", "standin/torchvision-0.30.0.dist-info/METADATA", about)


def other_torchvision(p: FaultyCluster) -> None:
    about = "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.30.0\nRequires-Dist: torch==2.14.1\n"
    p.file("node2", "standin/torchvision-0.30.0.dist-info/METADATA", about)


CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t which, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int answer = real(which, now);
    if (answer == 0 && which == CLOCK_REALTIME) now->tv_sec += 30;
    return answer;
}
"""


def clock_ahead(p: FaultyCluster) -> None:
    """Set the wall clock of all programs of a session 30 s ahead; time namespaces do not cover that clock."""
    library = p["node2"].home / "standin" / "clock.so"
    build = ["cc", "-shared", "-fPIC", "-x", "c", "-o", str(library), "-", "-ldl"]
    subprocess.run(build, input=CLOCK, text=True, check=True)
    p.sshd("node2", {"SetEnv": f"LD_PRELOAD={NODE_HOME}/standin/clock.so"}, {"SetEnv": "PLANTED=no"})


def many_startups(p: FaultyCluster) -> None:
    p.sshd("node2", {"MaxStartups": "2:100:2"}, {"MaxStartups": "200:30:400"})
    # Only a greeted connection holds a place. One may be turned away while the connection that asked whether
    # sshd is up still holds one.
    held, deadline = 0, time.monotonic() + 10
    while held < 2:
        assert time.monotonic() < deadline
        waiting = socket.create_connection((p["node2"].address, 22), 5)
        p.undo.enter_context(waiting)
        with contextlib.suppress(ConnectionResetError):
            held += waiting.recv(64).startswith(b"SSH-2.0")
    p.words += ["--connect-timeout", "3"]


def one_machine_twice(p: FaultyCluster) -> None:
    address = f"{p.cluster.switch.prefix}.9.9"
    p.sh("node2", f"ip addr add {address}/16 dev eth0")
    p.sshd("node2", {"ListenAddress": "0.0.0.0"}, {"ListenAddress": p["node2"].address})
    p.undo.callback(lambda: p.sh("node2", f"ip addr delete {address}/16 dev eth0"))
    own = (p["node2"].folder / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2]
    p.per_host["node3"] = {"address": address, "host_key": " ".join(own)}


def leftover(p: FaultyCluster) -> None:
    code = "import time; print('up', flush=True); time.sleep(600)"
    p.process("node2", "python3", "-c", code, ORCH_RUN_ID="20260101-000000-dead", ORCH_ATTEMPT="1")


def foreign_torchrun(p: FaultyCluster) -> None:
    code = "import time; print('up', flush=True); time.sleep(600)"
    p.process("node2", "python3", "-c", code, "torch.distributed.run", "--nnodes=4")


def env_drift(p: FaultyCluster) -> None:
    p.sshd("node2", {"SetEnv": "NCCL_ALGO=Ring"}, {"SetEnv": "PLANTED=no"})


def other_names(p: FaultyCluster) -> None:
    file = p["node2"].folder / "etc" / "hosts"
    before = file.read_text()
    file.write_text(before.replace(f"{p['node3'].address} node3", "10.77.0.3 node3"))
    p.undo.callback(lambda: file.write_text(before))


def lacking_requirements(p: FaultyCluster) -> None:
    p.project["requirements.txt"] = "# ours\ntorch>=2.4\ntorchvision>=0.30 ; python_version >= '3'\n"
    folder = p["node2"].home / "standin" / "torchvision-0.30.0.dist-info"
    folder.rename(folder.with_suffix(".away"))
    p.undo.callback(lambda: folder.with_suffix(".away").rename(folder))


def stale_lock(p: FaultyCluster) -> None:
    p.file("node2", ".cache/torch_extensions/py311_cu128/fused_adam/lock", "")
    os.utime(p["node2"].home / ".cache/torch_extensions/py311_cu128/fused_adam/lock", (time.time() - 4000,) * 2)


def one_way_login(p: FaultyCluster) -> None:
    """Give all hosts a key that logs in to every host but node2."""
    key = p.cluster.folder / "mesh"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    public = key.with_suffix(".pub").read_text()
    for host in p.cluster.hosts:
        p.file(host.name, ".ssh/id_ed25519", key.read_text())
        (host.home / ".ssh/id_ed25519").chmod(0o600)
        p.file(host.name, ".ssh/known_hosts", p.cluster.known_hosts.read_text())
        door = host.folder / "etc/ssh/authorized_keys"
        before = door.read_text()
        if host.name != "node2":
            door.write_text(before + public)
        p.undo.callback(lambda door=door, before=before: door.write_text(before))
    p.words += ["--mesh"]


NVIDIA_SMI = """#!/bin/sh
case "$*" in
-L) echo 'GPU 0: NVIDIA H100 (UUID: GPU-1)'; echo 'GPU 1: NVIDIA H100 (UUID: GPU-2)' ;;
topo*) printf ' \\tGPU0\\tGPU1\\n GPU0\\tX\\tCNS\\n GPU1\\tCNS\\tX\\n\\nLegend:\\n  X    = Self\\n' ;;
*query-gpu*) for i in 0 1; do
    echo "$i, NVIDIA H100, GPU-$i, 570.1, 81559, 4, 0, 35, 0, Enabled, Default, Not Active"; done ;;
esac
"""
JOURNALCTL = """#!/bin/sh
echo 'NVRM: Xid (PCI:0000:3b:00): 31, pid=7, name=python, Ch 00000008, intr 10000000. MMU Fault'
echo 'NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python, GPU has fallen off the bus.'
"""


def sick_gpus(p: FaultyCluster) -> None:
    """Put programs on node2's PATH that print what a driver's tools said of such GPUs."""
    p.file("node2", "bad/nvidia-smi", NVIDIA_SMI)
    p.file("node2", "bad/journalctl", JOURNALCTL)
    p.sshd("node2", {"SetEnv": f"PATH={NODE_HOME}/bad:/usr/bin:/bin"}, {"SetEnv": "PLANTED=no"})


def many_trees(p: FaultyCluster) -> None:
    for number in range(101):
        tree = p["node2"].home / "orch-work" / "project" / f"{number:032x}"
        tree.mkdir(parents=True)
        tree.with_name(tree.name + ".json").write_text("[]")
    p.undo.callback(lambda: shutil.rmtree(p["node2"].home / "orch-work"))


@dataclass(frozen=True)
class Fault:
    """What to plant, whom doctor must blame (``->`` joins a pair), and patterns of what it must say."""

    name: str
    plant: Callable[[FaultyCluster], object]
    blamed: str
    what: str
    remedy: str
    severity: str = "fail"
    exit_code: int = 3


BASHRC = ".bashrc"
FAULTS = (
    Fault(
        "host down",
        off,
        "node3",
        "did not answer within|no route",
        "check that the machine is on|check the address",
        exit_code=4,
    ),
    Fault(
        "sshd down",
        lambda p: p.per_host.update(node2={"port": 2222}),
        "node2",
        "nothing listens",
        "start sshd",
        exit_code=4,
    ),
    Fault("wrong key", wrong_key, "node2", "refused the login", "ssh-copy-id", exit_code=4),
    Fault(
        "wrong user",
        lambda p: p.per_host.update(node2={"user": "nobody"}),
        "node2",
        "nobody@",
        "check user:",
        exit_code=4,
    ),
    Fault(
        "changed host key",
        lambda p: p.per_host.update(node2={"host_key": "SHA256:" + "A" * 43}),
        "node2",
        "host key has CHANGED",
        "replace the recorded key",
        exit_code=4,
    ),
    Fault(
        "noisy .bashrc",
        lambda p: p.file("node2", BASHRC, "echo welcome to node2\n"),
        "node2",
        "prints 'welcome",
        "bashrc",
        "warn",
        0,
    ),
    Fault("port busy", port_busy, "node1", r"port 29511 is in use by pid \d+ \(python3", "--port"),
    Fault(
        "firewall passes only SSH",
        lambda p: p.drop("node2", "tcp dport != 22 drop"),
        "node2",
        "a firewall drops",
        "nft insert",
    ),
    Fault(
        "firewall passes SSH and the master port",
        lambda p: p.drop("node1", "tcp dport != { 22, 29500 } ct state new drop"),
        "node1",
        "a firewall drops connections on the TCP ports that ranks open",
        "nft insert",
    ),
    Fault(
        "firewall rejects",
        lambda p: p.drop("node2", "tcp dport != 22 ct state new reject with tcp reset"),
        "node2",
        "a firewall rejects",
        "nft insert",
    ),
    Fault(
        "one-way block",
        lambda p: p.drop("node3", f"ip saddr {p['node2'].address} tcp dport != 22 ct state new drop"),
        "node2 -> node3",
        "a firewall drops",
        "nft insert",
    ),
    Fault(
        "30 % packet loss",
        lambda p: p.drop("node2", f"ip saddr {p.peers} numgen random mod 10 < 3 drop"),
        "node2",
        r"\d+% of packets",
        "ip -s link",
    ),
    Fault(
        "slow link",
        lambda p: (p["node2"].slow(1), p.undo.callback(p["node2"].unslow)),
        "node2",
        "Mbit/s each way",
        "ethtool",
        "warn",
        0,
    ),
    Fault(
        "MTU black hole",
        lambda p: p.drop("node2", f"ip saddr {p.peers} meta length > 1200 drop"),
        "node2",
        "full-size packets are lost",
        "MTU",
    ),
    Fault(
        "ICMP blocked",
        lambda p: p.drop("node2", "icmp type echo-request drop"),
        "node2",
        "no ping",
        "let ICMP through",
        "warn",
        0,
    ),
    Fault(
        "own name at 127.0.1.1", loopback_name, "node2", "resolves to 127.0.1.1", "GLOO_SOCKET_IFNAME", "warn", 0
    ),
    Fault(
        "one address on every host",
        twins,
        "node[1-3]",
        "all have 172.30.0.1 on dock0",
        "orch leaves the address out",
        "warn",
        0,
    ),
    Fault(
        "interpreter missing",
        lambda p: p.per_host.update(node2={"python": "/no/such"}),
        "node2",
        "no such program",
        "set python:",
    ),
    Fault("torch missing", no_torch, "node2", "has no torch", "pip install torch"),
    Fault(
        "another torch",
        other_torch,
        "node2",
        "torch is 2.14.1; most hosts have 2.15.0",
        "torch==2.15.0",
        "warn",
        0,
    ),
    Fault(
        "torchvision of another torch",
        other_torchvision,
        "node2",
        "needs torch 2.14.1",
        "pip install torchvision",
        "warn",
        0,
    ),
    Fault(
        "full disk",
        lambda p: p.mount("node2", f"{NODE_HOME}/orch-work", "size=1m"),
        "node2",
        "has 1 MiB left",
        "make room",
    ),
    Fault(
        "read-only workdir",
        lambda p: p.mount("node2", f"{NODE_HOME}/orch-work", "ro,size=2g"),
        "node2",
        "cannot be written",
        "chown",
    ),
    Fault(
        "noexec workdir",
        lambda p: p.mount("node2", f"{NODE_HOME}/orch-work", "noexec,size=2g"),
        "node2",
        "noexec",
        "remount,exec",
        "warn",
        0,
    ),
    Fault(
        "tiny /dev/shm",
        lambda p: (
            p.sh("node2", "mount -o remount,size=16m /dev/shm"),
            p.undo.callback(lambda: p.sh("node2", "mount -o remount,size=8g /dev/shm")),
        ),
        "node2",
        "/dev/shm has 16 MiB",
        "mount -o remount,size=16G /dev/shm",
    ),
    Fault(
        "few open files",
        lambda p: p.file("node2", BASHRC, "ulimit -n 128\n"),
        "node2",
        "128 files open",
        "limits.conf",
    ),
    Fault("clock ahead", clock_ahead, "node2", r"clock is (29|30|31)\.\d s ahead", "chronyc makestep"),
    Fault(
        "leftover process",
        leftover,
        "node2",
        "processes of run 20260101-000000-dead are left over",
        "orch stop 20260101-000000-dead",
    ),
    Fault(
        "a torchrun of somebody",
        foreign_torchrun,
        "node2",
        "a torchrun that orch did not start",
        "kill",
        "warn",
        0,
    ),
    Fault(
        "MaxStartups",
        many_startups,
        "node2",
        "closed the connection before its SSH banner",
        "raise MaxStartups",
        exit_code=4,
    ),
    Fault(
        "MaxSessions",
        lambda p: p.sshd("node2", {"MaxSessions": "0"}, {"MaxSessions": "10"}),
        "node2",
        "opens no further session",
        "raise MaxSessions",
    ),
    Fault("one machine twice", one_machine_twice, "node[2-3]", "are one machine", "remove all but one"),
    Fault(
        "wrong fabric_address",
        lambda p: p.per_host.update(node2={"fabric_address": "10.99.0.1"}),
        "node2",
        "none of the host's addresses",
        "use one of",
    ),
    Fault(
        "unknown interface",
        lambda p: p.per_host.update(node2={"interface": "eth7"}),
        "node2",
        "names eth7",
        "leave it out",
    ),
    Fault("variables differ", env_drift, "node2", "has NCCL_ALGO=Ring", "on all hosts", "warn", 0),
    Fault("names differ", other_names, "node2", "node3 resolves to 10.77.0.3", "/etc/hosts", "warn", 0),
    Fault(
        "requirement missing",
        lacking_requirements,
        "node2",
        r"not satisfied: torchvision>=0.30 \(not installed\)$",
        "pip install -r",
        "warn",
        0,
    ),
    Fault("stale lock", stale_lock, "node2", "fused_adam/lock is the lock of a build", "rm /run", "warn", 0),
    Fault(
        "no TMPDIR",
        lambda p: p.sshd("node2", {"SetEnv": "TMPDIR=/run/none/here"}, {"SetEnv": "PLANTED=no"}),
        "node2",
        "TMPDIR is /run/none/here, which does not exist",
        "mkdir -p /run/none/here",
        "warn",
        0,
    ),
    Fault("old trees", many_trees, "node2", "holds 101 trees", "orch sync --prune", "warn", 0),
    Fault(
        "no login between hosts",
        one_way_login,
        "node2",
        "to and from node1, node3: .*denied",
        "orch keys --between",
    ),
    Fault("sick GPUs", sick_gpus, "node2", "Xid 79 since the last boot: GPU has fallen off the bus", "reboot"),
    Fault(
        "GPUs missing", lambda p: p.per_host.update(node2={"gpus": 4}), "node2", "0 of the 4 GPUs", "nvidia-smi -L"
    ),
)
