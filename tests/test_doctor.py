"""Faults planted on a real cluster, one at a time: each is found, its host or pair is named, no other is accused."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.edit import set_host_key
from orchestrator.errors import UsageError
from tests import standin
from tests.cluster import Cluster, NodeHost, require
from tests.cluster.files import NODE_HOME
from tests.conftest import ROOT, Orch

pytestmark = pytest.mark.cluster

# What doctor saw of each planted fault; ORCH_RECORD=1 writes them anew.
RECORDED = Path(__file__).parent / "recorded" / "doctor"
HANGS = "#!/bin/sh\nexec sleep 1000\n"
FLOODS = "#!/bin/sh\nexec head -c 100000000 /dev/zero\n"
RUBBISH = "#!/bin/sh\nhead -c 300 /dev/urandom\n"


@dataclass
class Patient:
    """The cluster with the faults that are being planted; ``undo`` takes them back."""

    cluster: Cluster
    undo: contextlib.ExitStack
    per_host: dict[str, dict[str, object]] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> NodeHost:
        return self.cluster[name]

    @property
    def peers(self) -> str:
        """node1 and node3, as nft writes them."""
        return f"{{ {self['node1'].address}, {self['node3'].address} }}"

    def sh(self, name: str, script: str) -> str:
        """A shell script on a host."""
        done = self[name].run("sh", "-c", script)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def drop(self, name: str, rule: str) -> None:
        """A firewall rule on a host."""
        self[name].drop(rule)
        self.undo.callback(self[name].clear_drops)

    def file(self, name: str, path: str, text: str) -> None:
        """A file in a host's home."""
        file = self[name].home / path
        before = file.read_text() if file.exists() else None
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
        self.undo.callback(lambda: file.unlink() if before is None else file.write_text(before))

    def mount(self, name: str, where: str, options: str, *, writes: str = "") -> None:
        """A file system of its own for a folder."""
        self.sh(name, f"mkdir -p {where} && mount -t tmpfs -o {options} planted {where} {writes}")
        self.undo.callback(lambda: self.sh(name, f"umount -l {where}"))

    def process(self, name: str, *argv: str, **env: str) -> None:
        """A process on a host."""
        host = self[name]
        child = subprocess.Popen(host.enter(*argv), env=host.login(env), stdout=subprocess.PIPE)
        self.undo.callback(child.communicate)
        self.undo.callback(child.kill)
        assert child.stdout and child.stdout.readline() == b"up\n"

    def sshd(self, name: str, options: dict[str, str], usual: dict[str, str]) -> None:
        """Another configuration of a host's sshd."""
        self[name].restart_sshd(options)
        self.undo.callback(lambda: self[name].restart_sshd(usual))


def off(p: Patient) -> None:
    p["node3"].kill()
    p.undo.callback(p["node3"].start)
    p.words += ["--connect-timeout", "3"]


def wrong_key(p: Patient) -> None:
    folder = Path(p.cluster.control_env()["HOME"])
    key = folder / "wrong"
    if not key.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    p.per_host["node2"] = {"identity_file": str(key)}


def port_busy(p: Patient) -> None:
    code = "import socket,time; s=socket.create_server(('',29511)); print('up', flush=True); time.sleep(600)"
    p.process("node1", "python3", "-c", code)
    p.words += ["--port", "29511"]


def twins(p: Patient) -> None:
    for host in p.cluster.hosts:
        p.sh(
            host.name,
            "ip link add dock0 type bridge && ip addr add 172.30.0.1/16 dev dock0 && ip link set dock0 up",
        )
        p.undo.callback(lambda name=host.name: p.sh(name, "ip link delete dock0"))


def loopback_name(p: Patient) -> None:
    file = p["node2"].folder / "etc" / "hosts"
    before = file.read_text()
    # Written in place: the host has this very file mounted.
    file.write_text(before.replace(f"{p['node2'].address} node2", "127.0.1.1 node2"))
    p.undo.callback(lambda: file.write_text(before))


def no_torch(p: Patient) -> None:
    folder = p["node2"].home / "standin"
    for name in ("torch", "torch-2.15.0.dist-info"):
        (folder / name).rename(folder / f"{name}.away")
        p.undo.callback(lambda name=name: (folder / f"{name}.away").rename(folder / name))


def other_torch(p: Patient) -> None:
    p.file(
        "node2", "standin/torch-2.15.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: torch\nVersion: 2.14.1\n"
    )
    about = "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.30.0\nRequires-Dist: torch==2.14.1\n"
    p.file("node2", "standin/torchvision-0.30.0.dist-info/METADATA", about)


def other_torchvision(p: Patient) -> None:
    about = "Metadata-Version: 2.1\nName: torchvision\nVersion: 0.30.0\nRequires-Dist: torch==2.14.1\n"
    p.file("node2", "standin/torchvision-0.30.0.dist-info/METADATA", about)


def clock_ahead(p: Patient) -> None:
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    variables = f"LD_PRELOAD={library} FAKETIME=+30s FAKETIME_DONT_FAKE_MONOTONIC=1"
    p.sshd("node2", {"SetEnv": variables}, {"SetEnv": "PLANTED=no"})


def many_startups(p: Patient) -> None:
    p.sshd("node2", {"MaxStartups": "2:100:2"}, {"MaxStartups": "200:30:400"})
    for _ in range(2):
        p.undo.enter_context(socket.create_connection((p["node2"].address, 22), 5))
    # They count from their greeting on.
    deadline = time.monotonic() + 10
    while True:
        with socket.create_connection((p["node2"].address, 22), 5) as third:
            if not third.recv(64).startswith(b"SSH-2.0"):
                break
        assert time.monotonic() < deadline
    p.words += ["--connect-timeout", "3"]


def one_machine_twice(p: Patient) -> None:
    address = f"{p.cluster.switch.prefix}.9.9"
    p.sh("node2", f"ip addr add {address}/16 dev eth0")
    p.sshd("node2", {"ListenAddress": "0.0.0.0"}, {"ListenAddress": p["node2"].address})
    p.undo.callback(lambda: p.sh("node2", f"ip addr delete {address}/16 dev eth0"))
    own = (p["node2"].folder / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2]
    p.per_host["node3"] = {"address": address, "host_key": " ".join(own)}


def leftover(p: Patient) -> None:
    code = "import time; print('up', flush=True); time.sleep(600)"
    p.process("node2", "python3", "-c", code, ORCH_RUN_ID="20260101-000000-dead", ORCH_ATTEMPT="1")


def foreign_torchrun(p: Patient) -> None:
    code = "import time; print('up', flush=True); time.sleep(600)"
    p.process("node2", "python3", "-c", code, "torch.distributed.run", "--nnodes=4")


def env_drift(p: Patient) -> None:
    p.sshd("node2", {"SetEnv": "NCCL_ALGO=Ring"}, {"SetEnv": "PLANTED=no"})


@dataclass(frozen=True)
class Fault:
    """What is planted, whom doctor must name for it, and what it must say. ``->`` stands between a pair."""

    name: str
    plant: Callable[[Patient], object]
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
        "is the machine on|check the address",
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
        "a firewall drops TCP ports that ranks open",
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
        "full-size packets get lost",
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
    Fault("own name at 127.0.1.1", loopback_name, "node2", "leads to 127.0.1.1", "GLOO_SOCKET_IFNAME", "warn", 0),
    Fault(
        "one address on every host",
        twins,
        "node[1-3]",
        "all have 172.30.0.1 on dock0",
        "orch leaves it out",
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
    Fault("another torch", other_torch, "node2", "has torch 2.14.1, most have 2.15.0", "torch==2.15.0", "warn", 0),
    Fault(
        "torchvision of another torch",
        other_torchvision,
        "node2",
        "belongs to torch 2.14.1",
        "pip install torchvision",
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
        "processes of run 20260101-000000-dead left over",
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
    Fault("one machine twice", one_machine_twice, "node[2-3]", "are one machine", "take all but one"),
    Fault(
        "wrong fabric_address",
        lambda p: p.per_host.update(node2={"fabric_address": "10.99.0.1"}),
        "node2",
        "none of its addresses",
        "use one of",
    ),
    Fault(
        "unknown interface",
        lambda p: p.per_host.update(node2={"interface": "eth7"}),
        "node2",
        "names eth7",
        "leave it out",
    ),
    Fault("variables differ", env_drift, "node2", "has NCCL_ALGO=Ring", "for all", "warn", 0),
    Fault(
        "GPUs missing", lambda p: p.per_host.update(node2={"gpus": 4}), "node2", "0 of the 4 GPUs", "nvidia-smi -L"
    ),
)


@pytest.fixture(scope="module")
def sick() -> Iterator[Cluster]:
    """Three hosts with a light stand-in for torch."""
    require()
    with Cluster(3) as made:
        for host in made.hosts:
            standin.install(host)
        yield made


@pytest.fixture
def patient(sick: Cluster) -> Iterator[Patient]:
    """The cluster, to plant a fault on."""
    with contextlib.ExitStack() as undo:
        yield Patient(sick, undo)


def examined(p: Patient, folder: Path) -> tuple[int, dict[str, Any], float, str]:
    """What doctor says as JSON, after how many seconds, and what stood on stderr."""
    (folder / "hosts.yaml").write_text(
        p.cluster.hosts_yaml(per_host=p.per_host, defaults={"python": standin.PYTHON})
    )
    orch = Orch(folder, {**p.cluster.control_env(), "PYTHONPATH": str(ROOT)})
    began = time.monotonic()
    done = orch("doctor", "--json", *p.words)
    return done.returncode, json.loads(done.stdout or "{}"), time.monotonic() - began, done.stderr


def test_a_healthy_cluster_is_well(patient: Patient, tmp_path: Path) -> None:
    code, seen, _, err = examined(patient, tmp_path)
    assert (code, seen["findings"], seen["unreachable"]) == (0, [], {}), err
    assert sorted(seen["probes"]) == ["node1", "node2", "node3"]
    text = Orch(tmp_path, {**patient.cluster.control_env(), "PYTHONPATH": str(ROOT)})(
        "doctor", "--html", "page.html"
    )
    assert text.stdout.startswith("node[1-3]: ok  Debian")
    assert "all is well" in text.stdout
    page = (tmp_path / "page.html").read_text()
    assert page.count("<td style=") == 12 and "Nothing is wrong" in page


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_found(patient: Patient, tmp_path: Path, fault: Fault) -> None:
    fault.plant(patient)
    code, seen, seconds, err = examined(patient, tmp_path)
    if "ORCH_RECORD" in os.environ and seen["findings"]:
        RECORDED.mkdir(exist_ok=True)
        (RECORDED / f"{re.sub('[^a-z0-9]+', '-', fault.name.lower())}.json").write_text(json.dumps(seen) + "\n")
    said = [
        (
            found["severity"],
            (" -> " if found["pair"] else ",").join(found["nodes"]),
            found["what"],
            found["remedy"],
        )
        for found in seen["findings"]
    ]
    said += [("fail", host, text, text) for host, text in seen["unreachable"].items()]
    names = {"node[1-3]": "node1,node2,node3", "node[2-3]": "node2,node3"}
    blamed = names.get(fault.blamed, fault.blamed)
    assert [each[1] for each in said] == [blamed] * len(said) and said, (said, err)
    right = [
        each
        for each in said
        if each[0] == fault.severity and re.search(fault.what, each[2]) and re.search(fault.remedy, each[3])
    ]
    assert right, said
    assert code == fault.exit_code
    assert seconds < 30


@pytest.mark.parametrize("program", [HANGS, FLOODS, RUBBISH], ids=["hangs", "floods", "rubbish"])
@pytest.mark.parametrize("name", ["python", "python3", "nvidia-smi"])
def test_a_program_that_misbehaves_spoils_nothing_else(
    patient: Patient, tmp_path: Path, name: str, program: str
) -> None:
    patient.file("node2", f"bad/{name}", program)
    if name == "python":
        patient.per_host["node2"] = {"python": f"{NODE_HOME}/bad/python"}
    else:
        patient.sshd("node2", {"SetEnv": f"PATH={NODE_HOME}/bad:/usr/bin:/bin"}, {"SetEnv": "PLANTED=no"})
    patient.per_host["node3"] = {"fabric_address": "10.99.0.1"}
    _, seen, seconds, err = examined(patient, tmp_path)
    assert seconds < 30
    said = {(tuple(found["nodes"]), found["check"]) for found in seen["findings"]}
    assert (("node3",), "interface") in said, err
    about = [found for found in seen["findings"] if found["nodes"] == ["node2"]]
    if name == "python3":
        # Without it nothing of orch runs there.
        assert list(seen["unreachable"]) == ["node2"] and about == [], seen["unreachable"]
        return
    assert about and all(found["check"] in ("interpreter", "parts") for found in about), about
    assert {tuple(found["nodes"]) for found in seen["findings"]} == {("node2",), ("node3",)}


def test_what_needs_no_root_is_mended(patient: Patient, tmp_path: Path) -> None:
    """An unknown host key, leftovers and a wrong address: each is offered, made, and looked at again."""
    leftover(patient)
    patient.per_host["node3"] = {"fabric_address": "10.99.0.1"}
    text = patient.cluster.hosts_yaml(per_host=patient.per_host, defaults={"python": standin.PYTHON})
    (tmp_path / "hosts.yaml").write_text(text + "# a comment\n")
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    known = patient.cluster.known_hosts.read_text().splitlines()
    (home / ".ssh" / "known_hosts").write_text(
        "\n".join(line for line in known if patient["node1"].address not in line)
    )
    orch = Orch(tmp_path, {**patient.cluster.control_env(), "HOME": str(home), "PYTHONPATH": str(ROOT)})
    asked = orch("doctor", "--fix")
    assert asked.returncode == 130 and "record this key in ~/.ssh/known_hosts?" in asked.stderr
    done = orch("doctor", "--fix", "--yes")
    assert "SHA256:" in done.stderr and "3 mended" in done.stderr
    assert "set hosts.node3.fabric_address to" in done.stderr
    assert done.returncode == 0 and "all is well" in done.stdout.splitlines()[-1], done.stdout + done.stderr
    changed = (tmp_path / "hosts.yaml").read_text()
    assert changed.endswith("# a comment\n") and f'"fabric_address": {patient["node3"].address}' in changed
    assert patient["node1"].address in (home / ".ssh" / "known_hosts").read_text()
    assert not [each for each in patient["node2"].processes() if "ORCH_RUN_ID" in each.environ]


@pytest.mark.torch
def test_a_run_sets_by_itself_what_it_can_survive(sick: Cluster, patient: Patient, tmp_path: Path) -> None:
    """Own name at 127.0.1.1 and the same address on every host: the run chooses interface and address, and works."""
    loopback_name(patient)
    twins(patient)
    (tmp_path / "hosts.yaml").write_text(sick.hosts_yaml(defaults={"python": sys.executable}))
    done = Orch(tmp_path, {**sick.control_env(), "PYTHONPATH": str(ROOT)})("run", "message-passing")
    assert done.returncode == 0, done.stderr
    assert "[node3:2] Rank 2 on node3 received 42.0 from rank 0" in done.stdout
    assert "warn: node2: its own name 'node2' leads to 127.0.1.1" in done.stderr


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("hosts:\n  a: {address: x}  # one\n", "hosts:\n  a: {interface: eth0, address: x}  # one\n"),
        (
            "hosts:\n  a:\n    # two\n    address: x\n",
            "hosts:\n  a:\n    # two\n    interface: eth0\n    address: x\n",
        ),
        ("hosts:\n  a: {interface: eth7, port: 22}\n", "hosts:\n  a: {interface: eth0, port: 22}\n"),
    ],
)
def test_one_value_of_a_hosts_file_is_changed_and_nothing_else(before: str, after: str) -> None:
    assert set_host_key(before, "a", "interface", "eth0") == after


def test_a_host_without_keys_of_its_own_is_not_changed() -> None:
    with pytest.raises(UsageError, match="no keys of its own"):
        set_host_key("hosts:\n  a[1-3]: {address: x}\n", "a1", "interface", "eth0")
