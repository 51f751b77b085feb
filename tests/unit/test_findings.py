"""The exact findings and remedies of each check, for facts at its limits and just beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.checks import cluster, gpus, nodes, pairs, software
from orchestrator.core.checks.facts import Address, Facts
from orchestrator.core.checks.findings import (
    EndLeftovers,
    Examined,
    Finding,
    MakeFolder,
    SetKey,
    fail,
    merged,
    most_common,
    warn,
)
from orchestrator.core.checks.nodes import GIB, MIB, age
from orchestrator.core.checks.pairs import culprits, tcp_result
from orchestrator.core.checks.remedies import let_in
from orchestrator.core.inventory.hosts import Host
from orchestrator.protocol.facts import (
    Disk,
    Home,
    Interface,
    Interpreter,
    Limits,
    Logout,
    Memory,
    NodeFacts,
    OwnName,
    Parts,
    RdmaPort,
    Running,
    StoredThere,
    System,
    Timekeeping,
    Torch,
    Variables,
    Versions,
)
from orchestrator.protocol.probe import Probe

PYTHON = Interpreter(path="/py", version="3.11.2", torch="2.5.1")
SYSTEM = System(
    os="Debian", kernel="6.1.0", machine="x86_64", libc="glibc 2.36", firewall="nft", boot_id="", root=False
)
ROOT = SYSTEM.replace(root=True)
DISK = Disk(path="/w", free=1 << 40, size=1 << 41, inodes=None, writable=True, noexec=False, kind="ext4")
LIMITS = Limits(open_files=(None, None), processes=(None, None), locked_memory=(None, None))
MEMORY = Memory(total=100 * GIB, available=90 * GIB, swap=0, limit=None, cores=2, load=0.0)
ETHERNET = Interface(up=True, speed=10000, mtu=1500, kind="ethernet")
VERSIONS = Versions(executable="/py", version="3.11.2", packages={}, torchvision_wants=None, path="/py")
TORCH = Torch(cuda="12.4", devices=2, backends=("gloo", "nccl"))
KEPT = StoredThere(path="/w", trees=100, runs=300)
PORT = RdmaPort(state="ACTIVE", rate="200 Gb/sec (4X HDR)", link="InfiniBand")
GPU = {
    "index": "0",
    "name": "H100",
    "driver_version": "570.1",
    "memory.total": "81920",
    "memory.used": "0",
    "temperature.gpu": "35",
    "ecc.errors.uncorrected.volatile.total": "0",
    "persistence_mode": "Enabled",
    "compute_mode": "Default",
    "clocks_throttle_reasons.hw_slowdown": "Not Active",
}


def node(name: str = "b", facts: Mapping[str, Any] | None = None, **parts: Any) -> Facts:
    """Return facts of a host with an address of its own: those of ``facts``, and further ``parts``."""
    address = f"10.0.0.{ord(name) - ord('a') + 1}"
    usual: dict[str, Any] = {
        "hostname": name,
        "home": "/home/u",
        "user": "u",
        "system": "Linux",
        "path": "/bin",
        "python": PYTHON,
        "gpus": 0,
        "addresses": (Address("lo", "127.0.0.1", 8), Address("eth0", address, 24)),
        "routes": (),
        "ssh_address": address,
        "free_port": 29500,
        "trees": (),
        "running": None,
    }
    return Facts(node=name, parts=Parts(**{"system": SYSTEM, **parts}), **{**usual, **(facts or {})})


def examined(*known: Facts, host: Mapping[str, Any] | None = None, **changes: Any) -> Examined:
    """Return what is known of these nodes; ``host`` are keys that each of them has in the inventory."""
    hosts = tuple(Host(each.node, each.hostname, **(host or {})) for each in known)
    addresses = {each.node: each.addresses[-1].address for each in known}
    return Examined(hosts, {each.node: each for each in known}, addresses=addresses, **changes)


def told(look: Callable[[Examined], Iterator[Finding]], seen: Examined) -> list[str]:
    return [f"{finding.severity} {finding}" for finding in look(seen)]


# ---- facts and findings


def test_the_facts_are_those_of_the_answer() -> None:
    parts = Parts(memory=MEMORY)
    running = Running(run_id="r1")
    answer = NodeFacts(
        hostname="gpu1",
        home="/home/u",
        user="u",
        system="Linux",
        path="/bin",
        python=PYTHON,
        gpus=2,
        addresses=(("eth0", "10.0.0.1", 24),),
        routes=(("eth0", "10.1.0.0", 16),),
        ssh_address="::ffff:10.0.0.1",
        free_port=29500,
        trees=(True, False),
        running=running,
        leftovers=("r0",),
        parts=parts,
    )
    known = Facts(
        node="a",
        hostname="gpu1",
        home="/home/u",
        user="u",
        system="Linux",
        path="/bin",
        python=PYTHON,
        gpus=2,
        addresses=(Address("eth0", "10.0.0.1", 24),),
        routes=(Address("eth0", "10.1.0.0", 16),),
        ssh_address="10.0.0.1",
        free_port=29500,
        trees=(True, False),
        running=running,
        leftovers=("r0",),
        parts=parts,
    )
    assert Facts.from_answer("a", answer) == known
    assert Facts.from_answer("a", answer, 1.5, "hello") == replace(known, clock_offset=1.5, noise="hello")
    for address in ("10.0.0.1", "fd00::1", "::ffff:abcd", None):
        assert Facts.from_answer("a", answer.replace(ssh_address=address)).ssh_address == address


def test_a_leading_tilde_is_the_nodes_home() -> None:
    for path, found in {
        "~": "/home/u",
        "~/x": "/home/u/x",
        "/tmp/~": "/tmp/~",
        "~v/x": "~v/x",
        "x/~/y": "x/~/y",
    }.items():
        assert node().expand(path) == found


def test_a_finding_in_one_line() -> None:
    assert str(Finding(("a", "b"), "warn", "what", "remedy")) == "a, b: what → remedy"
    assert str(Finding(("a", "b"), "warn", "what", "", pair=True)) == "a -> b: what"
    assert fail("a", "what", "remedy", MakeFolder("/x")) == Finding(
        ("a",), "fail", "what", "remedy", mend=MakeFolder("/x")
    )
    assert warn("a", "what", "remedy", MakeFolder("/x")) == Finding(
        ("a",), "warn", "what", "remedy", mend=MakeFolder("/x")
    )


def test_findings_merge_if_only_their_nodes_differ() -> None:
    one = Finding(("a",), "warn", "what", "remedy", "load", mend=MakeFolder("/x"))
    pair = Finding(("a", "b"), "warn", "what", "remedy", "load", pair=True)
    apart = [
        one,
        replace(one, severity="fail"),
        replace(one, what="other"),
        replace(one, remedy="other"),
        pair,
        replace(pair, nodes=("b", "a")),
    ]
    assert merged(apart) == tuple(apart)
    assert merged([one, apart[1], replace(one, nodes=("c", "d"))]) == (
        Finding(("a", "c", "d"), "warn", "what", "remedy", "load"),
        apart[1],
    )


def test_the_first_of_equally_frequent_values_is_the_most_common() -> None:
    assert most_common({"a": 1, "b": 2}) == 1
    assert most_common({"a": 1, "b": 2, "c": 2}) == 2
    assert most_common({}) is None


@pytest.mark.parametrize(
    ("tool", "command"),
    [
        ("ufw", "sudo ufw allow from 10.0.0.1 && sudo ufw allow from 10.0.0.2"),
        (
            "firewall-cmd",
            "sudo firewall-cmd --permanent --zone=trusted --add-source=10.0.0.1 && "
            "sudo firewall-cmd --permanent --zone=trusted --add-source=10.0.0.2 && sudo firewall-cmd --reload",
        ),
        (
            "iptables",
            "sudo iptables -I INPUT -p tcp -s 10.0.0.1 -j ACCEPT && "
            "sudo iptables -I INPUT -p tcp -s 10.0.0.2 -j ACCEPT",
        ),
        (
            None,
            "sudo nft insert rule inet filter input ip saddr { 10.0.0.1, 10.0.0.2 } tcp dport 1024-65535 accept",
        ),
    ],
)
def test_the_command_that_opens_each_firewall(tool: str | None, command: str) -> None:
    system, sources = SYSTEM.replace(firewall=tool), ["10.0.0.2", "10.0.0.1", "10.0.0.2"]
    assert let_in(system, sources) == f"open the receiving host's firewall: {command}"
    assert let_in(system.replace(root=True), sources) == (
        f"open the receiving host's firewall: {command.replace('sudo ', '')}"
    )


# ---- single nodes

ROOM = "make room (remove old runs in workdir and ~/.orch), or set workdir: to a larger disk"
ELSEWHERE = ", or set workdir: to another folder"


@pytest.mark.parametrize(
    ("purpose", "changes", "line"),
    [
        ("workdir", {"free": GIB}, None),
        ("workdir", {"free": GIB - 1}, f"warn b: workdir (/w) has 1024 MiB left → {ROOM}"),
        ("workdir", {"free": 100 * MIB}, f"warn b: workdir (/w) has 100 MiB left → {ROOM}"),
        ("workdir", {"free": 100 * MIB - 1}, f"fail b: workdir (/w) has 100 MiB left → {ROOM}"),
        ("home", {"free": 256 * MIB}, None),
        ("home", {"free": 256 * MIB - 1}, f"warn b: home (/w) has 256 MiB left → {ROOM}"),
        ("home", {"free": 16 * MIB}, f"warn b: home (/w) has 16 MiB left → {ROOM}"),
        ("home", {"free": 16 * MIB - 1}, f"fail b: home (/w) has 16 MiB left → {ROOM}"),
        ("/tmp", {"free": 256 * MIB, "path": "/tmp"}, None),
        ("/tmp", {"free": 0, "path": "/tmp"}, f"warn b: /tmp has 0 MiB left → {ROOM}"),
        ("home", {"inodes": 10_000}, None),
        ("home", {"inodes": 9_999}, "warn b: home (/w) has 9999 inodes left → delete small files on that disk"),
        # A full disk cannot be written either; then the room is what matters.
        (
            "workdir",
            {"writable": False, "free": MIB},
            f"fail b: workdir (/w) cannot be written → run there: sudo chown $USER /w{ELSEWHERE}",
        ),
        ("workdir", {"writable": False, "free": MIB - 1}, f"fail b: workdir (/w) has 1 MiB left → {ROOM}"),
        (
            "/tmp",
            {"writable": False},
            f"warn b: /tmp (/w) cannot be written → run there: sudo chown $USER /w{ELSEWHERE}",
        ),
        (
            "workdir",
            {"noexec": True},
            "warn b: workdir (/w) is mounted noexec: compiled extensions cannot be loaded → "
            f"run there: sudo mount -o remount,exec /w{ELSEWHERE}",
        ),
        ("home", {"noexec": True}, None),
        ("home", {"there": False}, None),
        (
            "/tmp",
            {"there": False, "path": "/my tmp", "free": 0},
            "warn b: TMPDIR is /my tmp, which does not exist → run there: mkdir -p '/my tmp'",
        ),
    ],
)
def test_disks(purpose: str, changes: dict[str, Any], line: str | None) -> None:
    for system in (SYSTEM, ROOT):
        seen = examined(node(disks={purpose: DISK.replace(**changes)}, system=system))
        wanted = [] if line is None else [line if system is SYSTEM else line.replace("sudo ", "")]
        assert told(nodes.disks, seen) == wanted


def test_a_missing_tmpdir_can_be_made_and_hides_no_other_disk() -> None:
    disks = {"/tmp": DISK.replace(path="/my tmp", there=False), "home": DISK.replace(free=0)}
    first, second = nodes.disks(examined(node(disks=disks)))
    assert first.mend == MakeFolder("/my tmp")
    assert (second.severity, second.mend) == ("fail", None)


SHM = "DataLoader workers and NCCL need more → run there: sudo mount -o remount,size=16G /dev/shm; "
DOCKER = "with docker, pass --shm-size=16g or --ipc=host"
NOFILE = "add '* - nofile 65536' to /etc/security/limits.conf there and log in again"
MEMLOCK = "add '* - memlock unlimited' to /etc/security/limits.conf there and log in again"
SWAPPED = "GiB of memory are swapped out: processes that wait for the disk slow all ranks"
LIST_SWAPPED = "end the swapped processes; to list them there: top, then o, then SWAP>0"
CONTAINER = "raise the limit (docker --memory, systemd MemoryMax=)"
NVIDIA_SMI = "run nvidia-smi there; reboot the host if nvidia-smi hangs"
INFINIBAND = {"eth0": ETHERNET, "ib0": ETHERNET.replace(kind="infiniband")}


@pytest.mark.parametrize(
    ("check", "parts", "lines"),
    [
        (nodes.shared_memory, {"shm": DISK.replace(size=GIB)}, []),
        (
            nodes.shared_memory,
            {"shm": DISK.replace(size=GIB - 1)},
            [f"warn b: /dev/shm has 1024 MiB; {SHM}{DOCKER}"],
        ),
        (
            nodes.shared_memory,
            {"shm": DISK.replace(size=64 * MIB)},
            [f"warn b: /dev/shm has 64 MiB; {SHM}{DOCKER}"],
        ),
        (
            nodes.shared_memory,
            {"shm": DISK.replace(size=64 * MIB - 1)},
            [f"fail b: /dev/shm has 64 MiB; {SHM}{DOCKER}"],
        ),
        (nodes.limits, {"limits": LIMITS.replace(open_files=(1024, 1024))}, []),
        (
            nodes.limits,
            {"limits": LIMITS.replace(open_files=(1023, 65536))},
            [f"warn b: a session may have 1023 files open (ulimit -n); training needs more → {NOFILE}"],
        ),
        (
            nodes.limits,
            {"limits": LIMITS.replace(open_files=(256, None))},
            [f"warn b: a session may have 256 files open (ulimit -n); training needs more → {NOFILE}"],
        ),
        (
            nodes.limits,
            {"limits": LIMITS.replace(open_files=(255, None))},
            [f"fail b: a session may have 255 files open (ulimit -n); training needs more → {NOFILE}"],
        ),
        (nodes.limits, {"limits": LIMITS.replace(locked_memory=(65536, None)), "interfaces": {"e": ETHERNET}}, []),
        (
            nodes.limits,
            {"limits": LIMITS.replace(locked_memory=(65536, None)), "interfaces": INFINIBAND},
            [
                "fail b: InfiniBand needs locked memory, but a session may lock only 65536 bytes → " + MEMLOCK,
            ],
        ),
        (nodes.limits, {"limits": LIMITS.replace(locked_memory=(None, 65536)), "interfaces": INFINIBAND}, []),
        (nodes.memory, {"memory": MEMORY.replace(available=512 * MIB)}, []),
        (
            nodes.memory,
            {"memory": MEMORY.replace(available=512 * MIB - 1)},
            ["warn b: only 512 MiB of memory are available → end the processes that use memory there"],
        ),
        # A tenth of the memory may be swapped out.
        (nodes.memory, {"memory": MEMORY.replace(swap=12 * GIB, swap_free=2 * GIB)}, []),
        (
            nodes.memory,
            {"memory": MEMORY.replace(swap=12 * GIB, swap_free=2 * GIB - 1)},
            [f"warn b: 10.0 {SWAPPED} → {LIST_SWAPPED}"],
        ),
        # A limit matters that is below 16 GiB and below half of the memory.
        (nodes.memory, {"memory": MEMORY.replace(limit=16 * GIB)}, []),
        (
            nodes.memory,
            {"memory": MEMORY.replace(limit=15 * GIB)},
            [f"warn b: the container or slice is limited to 15.0 GiB of memory → {CONTAINER}"],
        ),
        (nodes.memory, {"memory": MEMORY.replace(total=16 * GIB, limit=8 * GIB)}, []),
        (
            nodes.memory,
            {"memory": MEMORY.replace(total=16 * GIB, limit=7 * GIB)},
            [f"warn b: the container or slice is limited to 7.0 GiB of memory → {CONTAINER}"],
        ),
        (
            nodes.parts,
            {
                "unanswered": {
                    "gpus": "no answer within 8 s",
                    "gpu_users": "killed",
                    "own_name": "no answer",
                    "torch": "left to another check",
                    "versions": "left to another check",
                }
            },
            [
                f"warn b: the facts about gpus could not be read: no answer within 8 s → {NVIDIA_SMI}",
                f"warn b: the facts about gpu users could not be read: killed → {NVIDIA_SMI}",
                "warn b: the facts about own name could not be read: no answer → examine the host by hand",
            ],
        ),
        (
            nodes.other_launchers,
            {"torchruns": ((7, 1000, " torchrun t.py --api-key secret " + "x" * 80),)},
            [
                "warn b: a torchrun that orch did not start is running: pid 7 (torchrun t.py --api-key *** "
                + "x" * 52
                + ") → if it is a leftover, run there: kill 7"
            ],
        ),
        (
            nodes.stale_locks,
            {"locks": (("/a b/lock", 99.0),)},
            [
                "warn b: /a b/lock is the lock of a build that began 99 s ago: torch waits for it without a limit"
                " → if no build is running there: rm '/a b/lock'"
            ],
        ),
        (nodes.kept, {"kept": KEPT}, []),
        (
            nodes.kept,
            {"kept": KEPT.replace(trees=101)},
            [
                "warn b: /w holds 101 trees and 300 working folders of runs → "
                "remove those that no run uses: orch sync --prune"
            ],
        ),
        (
            nodes.kept,
            {"kept": KEPT.replace(runs=301)},
            [
                "warn b: /w holds 100 trees and 301 working folders of runs → "
                "remove those that no run uses: orch sync --prune"
            ],
        ),
        (nodes.logout, {"logout": Logout(kills=True, moves=True)}, []),
        (nodes.logout, {"logout": Logout(kills=False)}, []),
        (
            nodes.logout,
            {"logout": Logout(kills=True)},
            [
                "warn b: systemd ends a session's processes at logout (KillUserProcesses), and a run with them → "
                "run there: sudo loginctl enable-linger u; orch then leaves the session"
            ],
        ),
    ],
)
def test_one_node(check: Callable[[Examined], Iterator[Finding]], parts: dict[str, Any], lines: list[str]) -> None:
    # A first node without an answer hides nothing, and root needs no sudo.
    silent = node("a", system=None)
    assert told(check, examined(silent, node(**parts))) == lines
    assert told(check, examined(silent, node(**parts, system=ROOT))) == [
        line.replace("sudo ", "") for line in lines
    ]


def test_more_processes_than_cores() -> None:
    known = node(memory=MEMORY)
    assert told(nodes.processes, examined(known, host={"nproc": 2})) == []
    assert told(nodes.processes, examined(known, host={"nproc": 3})) == [
        "warn b: 3 processes share 2 cores → lower nproc: for this host, or --nproc"
    ]
    # A process for each GPU is the default.
    assert len(told(nodes.processes, examined(node(facts={"gpus": 3}, memory=MEMORY)))) == 1


def test_pings() -> None:
    losses = {"a": 1.0, "b": 0.4, "c": 0.39, "d": None}
    seen = examined(node(), pings={name: {"loss": loss, "rtt": None} for name, loss in losses.items()})
    assert told(nodes.pings, seen) == [
        "warn a: SSH works, but no ping from this machine is answered: ICMP is blocked on the way → "
        "let ICMP through: path MTU discovery may need it, though a run does not",
        "warn b: 40% of this machine's pings are lost → check the network on the way",
    ]


@pytest.mark.parametrize(
    ("noise", "said"), [("\n \n", "blank lines"), ("\n hi \nthere\n", "hi "), ("x" * 61, "x" * 60)]
)
def test_what_a_login_shell_prints(noise: str, said: str) -> None:
    assert told(nodes.shell_noise, examined(node("a"), node(facts={"noise": noise}))) == [
        f"warn b: the login shell prints {said!r} in every session, which breaks scp, rsync and other tools → "
        "in ~/.bashrc there, print only in interactive shells: case $- in *i*) ... ;; esac"
    ]


def test_runs_that_hold_a_node_or_left_processes_on_it() -> None:
    def held(name: str, run_id: str, seconds: float, *leftovers: str) -> Facts:
        running = Running(run_id=run_id, owner="u@h", workload="t.py", age=seconds)
        return node(name, {"running": running, "leftovers": leftovers})

    seen = examined(
        held("a", "r1", 50.0), held("b", "r1", 60.0), held("c", "r2", 200.0), held("d", "", 0.0, "r4", "r3")
    )
    busy = "wait for the run, watch it (orch attach {0}) or end it: orch stop {0}"
    lines = [
        "fail a: run r1 (t.py) of u@h has held the lock for 60 s → " + busy.format("r1"),
        "fail b: run r1 (t.py) of u@h has held the lock for 60 s → " + busy.format("r1"),
        "fail c: run r2 (t.py) of u@h has held the lock for 3 min → " + busy.format("r2"),
        "fail d: the lock is held by u@h → have that user, or root there, end the run: orch stop --all",
        "fail d: processes of run r3 are left over without a supervisor → end them: orch stop r3",
        "fail d: processes of run r4 are left over without a supervisor → end them: orch stop r4",
    ]
    assert told(nodes.busy, seen) == lines
    assert [found.mend for found in nodes.busy(seen)] == [None] * 4 + [EndLeftovers("r3"), EndLeftovers("r4")]
    # The run that is about to be restarted holds its nodes rightly.
    assert told(nodes.busy, replace(seen, own_run="r1")) == lines[2:]
    assert told(nodes.busy, replace(seen, own_run="r3")) == lines[:4] + lines[5:]


def test_how_durations_are_told() -> None:
    durations = {
        0: "0 s",
        99: "99 s",
        100: "2 min",
        5999: "100 min",
        6000: "1 h 40 min",
        7200: "2 h 0 min",
        11_159: "3 h 5 min",
    }
    assert {seconds: age(seconds) for seconds in durations} == durations


@pytest.mark.parametrize(
    ("addresses", "what"),
    [
        ((), "does not resolve, but Gloo looks it up"),
        (("127.0.1.1", "::1"), "resolves to 127.0.1.1, where other nodes cannot reach Gloo"),
        (("::1",), "resolves to ::1, where other nodes cannot reach Gloo"),
        (("127.0.1.1", "10.0.0.2"), None),
    ],
)
def test_the_hosts_own_name(addresses: tuple[str, ...], what: str | None) -> None:
    seen = examined(node("a"), node(own_name=OwnName(hostname="gpu2", addresses=addresses)))
    helps = "orch sets GLOO_SOCKET_IFNAME for its own runs; for other launchers, correct /etc/hosts there"
    assert told(nodes.own_name, seen) == (
        [] if what is None else [f"warn b: the host's own name 'gpu2' {what} → {helps}"]
    )
    assert told(nodes.own_name, replace(seen, one_machine=True)) == []


@pytest.mark.parametrize(
    ("host", "what", "mend"),
    [
        ({"interface": "eth0"}, None, None),
        ({"interface": "eth"}, None, None),
        ({"interface": "auto"}, None, None),
        ({"interface": "ib0"}, "interface: in the inventory names ib0", SetKey("interface", "eth0")),
        ({"env": {"GLOO_SOCKET_IFNAME": "eth0,lo"}}, None, None),
        (
            {"env": {"GLOO_SOCKET_IFNAME": "eth0,ib0"}},
            "GLOO_SOCKET_IFNAME in env: of the inventory names ib0",
            None,
        ),
        ({"env": {"NCCL_SOCKET_IFNAME": "=eth0"}}, None, None),
        (
            {"env": {"NCCL_SOCKET_IFNAME": "^ib0,,"}},
            "NCCL_SOCKET_IFNAME in env: of the inventory names ib0",
            None,
        ),
    ],
)
def test_interfaces_that_the_inventory_names(host: dict[str, Any], what: str | None, mend: SetKey | None) -> None:
    seen = examined(node(), host=host)
    remedy = "correct the name, or leave it out: orch finds the interface itself"
    assert told(nodes.interface, seen) == (
        [] if what is None else [f"fail b: {what}, which is not up; the interfaces up are eth0, lo → {remedy}"]
    )
    assert [found.mend for found in nodes.interface(seen)] == ([] if what is None else [mend])


def test_a_fabric_address_that_is_not_the_hosts_own() -> None:
    own = (Address("lo", "127.0.0.1", 8), Address("eth0", "10.0.0.2", 24), Address("eth1", "10.1.0.2", 24))
    seen = examined(node(facts={"addresses": own}), host={"fabric_address": "10.9.9.9"})
    (found,) = nodes.interface(seen)
    assert f"{found.severity} {found}" == (
        "fail b: fabric_address 10.9.9.9 is none of the host's addresses → "
        "use one of 10.0.0.2, 10.1.0.2, or leave fabric_address: out"
    )
    assert found.mend == SetKey("fabric_address", "10.0.0.2")
    # Without an address that others may reach, the file is left as it is.
    alone = node(facts={"addresses": own[:1], "ssh_address": None})
    (found,) = nodes.interface(examined(alone, host={"fabric_address": "10.9.9.9"}))
    assert found.mend is None
    (found,) = nodes.interface(examined(alone, host={"interface": "ib0"}))
    assert found.mend is None
    assert told(nodes.interface, examined(node(), host={"fabric_address": "10.0.0.2"})) == []


OTHER_PORT = "pass another --port, or leave --port out: orch picks a free one"
LOWER_PORT = "pass a --port below 30000, or leave --port out: orch picks a free one"


@pytest.mark.parametrize(
    ("port", "free", "lines"),
    [
        (None, None, []),
        (29999, 29999, []),
        (
            30000,
            30000,
            [
                "master port 30000 is in the range that outgoing connections use (30000 to 40000) → " + LOWER_PORT,
            ],
        ),
        (
            40000,
            40000,
            [
                "master port 40000 is in the range that outgoing connections use (30000 to 40000) → " + LOWER_PORT,
            ],
        ),
        (40001, 40001, []),
        (29999, None, [f"master port 29999 is in use by nginx → {OTHER_PORT}"]),
        (29998, None, [f"master port 29998 is in use → {OTHER_PORT}"]),
    ],
)
def test_the_master_port(port: int | None, free: int | None, lines: list[str]) -> None:
    limits = LIMITS.replace(ephemeral_ports=(30000, 40000))
    first = node("a", {"free_port": free}, limits=limits, listeners={"29999": "nginx"})
    found = told(nodes.master_port, examined(first, node("b", {"free_port": None}), port=port))
    assert [line.split(" ", 1)[1] for line in found] == [f"a: {line}" for line in lines]
    assert [line.split()[0] for line in found] == ["fail" if "in use" in line else "warn" for line in lines]
    # An unknown range of outgoing connections holds no port.
    if free is not None:
        assert told(nodes.master_port, examined(node("a", {"free_port": free}), port=port)) == []


# ---- GPUs and software

FREE_GPU = "end the processes that hold it; orch ps shows leftovers of runs"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"memory.used": "40960"}, None),
        (
            {"memory.used": "40961.5"},
            f"warn b: GPU 0 (H100) already has 40 of 80 GiB in use, held by no process that nvidia-smi lists → "
            f"{FREE_GPU}",
        ),
        ({"memory.used": "[N/A]", "memory.total": "1"}, None),
        ({"memory.used": "9", "memory.total": "[N/A]"}, None),
        ({"temperature.gpu": "86"}, None),
        (
            {"temperature.gpu": "87"},
            "warn b: GPU 0 (H100) is at 87 °C and will be slowed down → check the cooling",
        ),
        ({"temperature.gpu": "[N/A]"}, None),
        (
            {"ecc.errors.uncorrected.volatile.total": "1"},
            "fail b: GPU 0 (H100) reports uncorrected memory errors: 1 → reset the GPU (nvidia-smi -r) or replace it",
        ),
        ({"ecc.errors.uncorrected.volatile.total": "[N/A]"}, None),
        (
            {"clocks_throttle_reasons.hw_slowdown": "Active"},
            "warn b: GPU 0 (H100) is being slowed down by its hardware → check the power supply and the cooling",
        ),
        (
            {"persistence_mode": "Disabled"},
            "warn b: GPU 0 (H100) is not in persistence mode: the driver is loaded again for every process → "
            "run there: sudo nvidia-smi -pm 1",
        ),
        (
            {"compute_mode": "Prohibited"},
            "fail b: GPU 0 (H100) allows no computing (compute mode Prohibited) → run there: sudo nvidia-smi -c 0",
        ),
    ],
)
def test_a_gpu(changes: dict[str, str], line: str | None) -> None:
    assert told(gpus.gpus, examined(node(gpus=({**GPU, **changes},)))) == ([] if line is None else [line])


def test_the_first_four_holders_of_a_gpus_memory_are_named() -> None:
    users = tuple((pid, "python", "9") for pid in range(1, 6))
    (line,) = told(gpus.gpus, examined(node(gpus=({**GPU, "memory.used": "81920"},), gpu_users=users)))
    assert line == (
        "warn b: GPU 0 (H100) already has 80 of 80 GiB in use, "
        f"held by pid 1 (python), pid 2 (python), pid 3 (python), pid 4 (python) → {FREE_GPU}"
    )


VISIBLE = "check nvidia-smi -L and CUDA_VISIBLE_DEVICES there, or correct gpus:"


@pytest.mark.parametrize(
    ("there", "wanted", "backend", "lines"),
    [
        (2, 2, "auto", []),
        (1, 2, "auto", [f"fail b: 1 of the 2 GPUs in the inventory are visible → {VISIBLE}"]),
        (0, 2, "nccl", [f"fail b: 0 of the 2 GPUs in the inventory are visible → {VISIBLE}"]),
        (0, None, "nccl", ["fail b: --backend nccl needs GPUs, but none is visible → use --backend gloo"]),
        (0, 0, "nccl", ["fail b: --backend nccl needs GPUs, but none is visible → use --backend gloo"]),
        (1, None, "nccl", []),
        (0, None, "gloo", []),
        (
            0,
            None,
            "mpi",
            [
                "fail b: torch has no backend mpi, only gloo, nccl → "
                "use --backend gloo, or install a torch that has the backend"
            ],
        ),
    ],
)
def test_gpus_and_backends(there: int, wanted: int | None, backend: str, lines: list[str]) -> None:
    seen = examined(node(facts={"gpus": there}, torch=TORCH), host={"gpus": wanted}, backend=backend)
    assert told(gpus.gpus, seen) == lines


@pytest.mark.parametrize(
    ("there", "torch", "listed", "line"),
    [
        (2, TORCH, (), None),
        (0, TORCH.replace(devices=0), (), None),
        (2, None, (), None),
        (
            3,
            TORCH,
            (GPU,),
            "torch (CUDA 12.4) can use 2 of the 3 GPUs → check that driver 570.1 is new enough for that CUDA; "
            "with NVSwitch, start nvidia-fabricmanager",
        ),
        (
            3,
            TORCH,
            (),
            "torch (CUDA 12.4) can use 2 of the 3 GPUs → check that driver is new enough for that CUDA; "
            "with NVSwitch, start nvidia-fabricmanager",
        ),
        (
            2,
            Torch(cuda=None, devices=0, backends=()),
            (GPU,),
            "torch was built without CUDA and cannot use the 2 GPUs → "
            "install a CUDA build there: /py -m pip install --force-reinstall torch",
        ),
    ],
)
def test_gpus_that_torch_can_use(
    there: int, torch: Torch | None, listed: tuple[Any, ...], line: str | None
) -> None:
    known = [node("z"), *(node(name, {"gpus": there}, torch=torch, gpus=listed) for name in "ab")]
    # What is wrong with one host hides nothing of the next.
    assert told(gpus.torch_sees, examined(*known)) == (
        [] if line is None else [f"fail {name}: {line}" for name in "ab"]
    )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (("0000:3b:00", 31, "MMU Fault"), None),
        (("0000:3b:00", 63, ""), "warn b: the GPU at 0000:3b:00 has logged Xid 63 since the last boot"),
        (
            ("0000:3b:00", 79, "pid=1, GPU has fallen off the bus."),
            "fail b: the GPU at 0000:3b:00 has logged Xid 79 since the last boot: GPU has fallen off the bus",
        ),
    ],
)
def test_errors_that_the_driver_logged(error: tuple[str, int, str], line: str | None) -> None:
    remedy = "reset the GPU (nvidia-smi -r) or reboot; leave the node out if the error returns"
    found = told(gpus.hardware_errors, examined(node(gpu_errors=(("0000:3b:00", 13, "Engine Exception"), error))))
    assert found == ([] if line is None else [f"{line} → {remedy}"])


def test_peer_access_that_is_lacking() -> None:
    line = (
        "warn b: the pair GPU 0, GPU 1{} has no peer access (CNS): NCCL goes through host memory → "
        "switch ACS off and boot with iommu=pt; if NCCL hangs, pass --env NCCL_P2P_DISABLE=1"
    )
    for peers, more in {
        ((0, 1, "CNS"),): "",
        ((0, 2, "NS"), (0, 1, "CNS"), (0, 3, "GNS"), (1, 2, "TNS")): " (and 1 more)",
    }.items():
        assert told(gpus.peer_access, examined(node(gpu_peers=peers))) == [line.format(more)]
    assert told(gpus.peer_access, examined(node(gpu_peers=((0, 1, "NS"), (0, 2, "GNS"))))) == []


DOWN = PORT.replace(state="DOWN")
ETHERNET_PORT = PORT.replace(link="Ethernet", rate="25 Gb/sec")
CABLE = "check the cable and the subnet manager: ibstat"
HCA = "name the adapters to use (--env NCCL_IB_HCA=...), or use none (--env NCCL_IB_DISABLE=1)"


@pytest.mark.parametrize(
    ("ports", "lines"),
    [
        ({"x/1": PORT, "x/2": PORT.replace(state="")}, []),
        ({"x/1": DOWN, "x/2": DOWN}, []),
        ({"x/1": PORT, "x/2": DOWN}, [f"warn b: of the RDMA ports, x/2 is not active → {CABLE}"]),
        (
            {"x/1": PORT, "x/2": DOWN, "x/3": DOWN},
            [f"warn b: of the RDMA ports, x/2, x/3 are not active → {CABLE}"],
        ),
        (
            {},
            [f"warn b: the RDMA adapters differ: none; on most hosts InfiniBand 200 Gb/sec (4X HDR) → {HCA}"],
        ),
        (
            {"x/1": PORT, "y/1": ETHERNET_PORT},
            [
                "warn b: the RDMA adapters differ: Ethernet 25 Gb/sec, InfiniBand 200 Gb/sec (4X HDR); "
                f"on most hosts InfiniBand 200 Gb/sec (4X HDR) → {HCA}"
            ],
        ),
    ],
)
def test_rdma_adapters(ports: dict[str, RdmaPort], lines: list[str]) -> None:
    usual = [node(name, rdma={"x/1": PORT}) for name in "cd"]
    assert told(gpus.adapters, examined(node("a"), node(rdma=ports), *usual)) == lines


@pytest.mark.parametrize(
    ("python", "environment", "line"),
    [
        (PYTHON, None, None),
        (
            Interpreter(path="/py", error="no such file"),
            None,
            "fail b: interpreter '/py' cannot be used: no such file → "
            "set python: for this host to an interpreter that works there",
        ),
        (
            Interpreter(path="/py", error="no such file"),
            "env.txt",
            "warn b: the environment (env.txt) is not built yet → build it with orch sync; orch run builds it, too",
        ),
        (
            PYTHON.replace(torch=None),
            None,
            "fail b: /py (Python 3.11.2) has no torch → "
            "run there: /py -m pip install torch; or set python: to another interpreter",
        ),
    ],
)
def test_the_interpreter(python: Interpreter, environment: str | None, line: str | None) -> None:
    seen = examined(node(facts={"python": python}), host={"environment": environment})
    assert told(software.interpreter, seen) == ([] if line is None else [line])


def test_torch_that_cannot_be_imported() -> None:
    why = {"unanswered": {"torch": "OSError: libcudnn"}}
    assert told(software.torch_imports, examined(node(**why))) == [
        "fail b: /py cannot import torch: OSError: libcudnn → see the whole error there: /py -c 'import torch'"
    ]
    # The check of the interpreter reports these.
    for python in (PYTHON.replace(torch=None), PYTHON.replace(error="killed")):
        assert told(software.torch_imports, examined(node(facts={"python": python}, **why))) == []


def test_torchvision_needs_the_torch_that_it_was_built_for() -> None:
    for wants, has, line in (
        ("2.5.1", "2.5.1+cu124", None),
        ("2.5.1+cpu", "2.5.1", None),
        (None, "2.5.1", None),
        (
            "2.5.1",
            "2.6.0+cu124",
            "torchvision 0.20 needs torch 2.5.1, but torch 2.6.0+cu124 is installed: its import will fail → "
            "run there: /py -m pip install torchvision torch==2.6.0+cu124",
        ),
    ):
        versions = VERSIONS.replace(torchvision_wants=wants, packages={"torch": has, "torchvision": "0.20"})
        found = told(software.torchvision, examined(node("a"), node(versions=versions)))
        assert found == ([] if line is None else [f"warn b: {line}"])


INSTALLED = {"torch": "2.5.1", "beta": "2.0b1", "odd": "unknown"}


@pytest.mark.parametrize(
    ("lines", "lacking"),
    [
        (("torch>=2", "odd>=9", "beta>=1.9"), None),
        (("torch>=3  # newest",), "torch>=3 (2.5.1)"),
        (("torch>=3 --hash=sha256:0",), "torch>=3 (2.5.1)"),
        (("", "  ", "# x", "-r other.txt", "--index-url x", "./x.whl", "gamma"), "gamma (not installed)"),
        (("gamma; python_version < '3.9'", "delta; python_version == '3.9'"), "delta (not installed)"),
        (
            ("gamma; python_full_version < '3.9.7'", "delta; python_full_version == '3.9.7'"),
            "delta (not installed)",
        ),
        (("gamma; sys_platform == 'win32'", "delta; sys_platform == 'linux'"), "delta (not installed)"),
        (
            ("p", "q", "r", "s"),
            "p (not installed), q (not installed), r (not installed), s (not installed)",
        ),
        (
            ("p", "q", "r", "s", "t"),
            "p (not installed), q (not installed), r (not installed), s (not installed) and 1 more",
        ),
    ],
)
def test_requirements(lines: tuple[str, ...], lacking: str | None) -> None:
    python = PYTHON.replace(version="3.9.7")
    known = node(facts={"python": python}, versions=VERSIONS.replace(packages=INSTALLED))
    found = told(software.requirements, examined(node("a"), known, requirements=lines))
    assert found == (
        []
        if lacking is None
        else [
            f"warn b: requirements.txt is not satisfied: {lacking} → "
            "run there: /py -m pip install -r requirements.txt"
        ]
    )


# ---- pairs of nodes

WELL = Probe(tcp={"10.0.0.0": "ok"}, rtt=1e-4, loss=0.0, bulk=(100_000_000, 1.0))


def linked(names: str, /, usual: Probe = WELL, **changed: Mapping[str, Any]) -> Examined:
    """Return nodes of one letter each whose pairs are well but for those changed: ``ab={"loss": 0.1}``."""
    probes = {a: {b: usual.replace(**changed.get(a + b, {})) for b in names if b != a} for a in names}
    return examined(*(node(name, interfaces={"eth0": ETHERNET}) for name in names), probes=probes)


def tcp(result: str, **others: Any) -> dict[str, Any]:
    return {"tcp": {"10.0.0.9": result}, **others}


def test_the_first_address_of_a_node_comes_last_and_counts() -> None:
    assert tcp_result(Probe(tcp={"10.1.0.1": "timeout", "10.0.0.1": "ok"})) == "ok"
    assert tcp_result(Probe()) == "skipped"


@pytest.mark.parametrize(
    ("known", "bad", "blamed", "rest"),
    [
        # Two nodes: neither is to blame alone.
        ("ab ba", "ab ba", "", "ab ba"),
        # All partners of b, some in one direction and some in the other.
        ("ab ac ba bc ca cb", "ab bc", "b", ""),
        # All pairs into b, though b reaches d.
        ("ab cb bd ad cd da", "ab cb", "b", ""),
        # All pairs into b are one, and c is well.
        ("ab bc ca ac", "ab", "", "ab"),
        # a has no other partner, so nothing tells who of the two is at fault.
        ("ab ba bc cb", "ab", "", "ab"),
        # Two of three partners are not all.
        ("ab ba ac ca ad da bc cb bd db cd dc", "ab bc", "", "ab bc"),
        # A blamed node explains its pairs, and the rest stay.
        ("ab ba ac ca ad da bc cb bd db cd dc", "ab cb db cd", "b", "cd"),
        ("ab ba bc cb ac ca", "", "", ""),
        # A node is not to blame if every node is.
        ("ab ba bc cb ac ca", "ab bc ac", "", "ab ac bc"),
    ],
)
def test_whom_bad_pairs_blame(known: str, bad: str, blamed: str, rest: str) -> None:
    def split(text: str) -> list[tuple[str, str]]:
        return [(word[0], word[1]) for word in text.split()]

    assert culprits(set(split(bad)), split(known)) == (list(blamed), split(rest))


NFT = "open the receiving host's firewall: sudo nft insert rule inet filter input ip saddr {{ {} }} tcp dport {}"
RANGE = "1024-65535 accept"


@pytest.mark.parametrize(
    ("names", "changed", "lines"),
    [
        ("abc", {"ab": {"tcp": {}}, "cb": tcp("ok")}, []),
        (
            "abc",
            {"ab": tcp("timeout"), "cb": tcp("timeout")},
            [
                "fail b: a firewall drops connections on the TCP ports that ranks open, to and from a, c → "
                + NFT.format("10.0.0.1, 10.0.0.3", RANGE)
            ],
        ),
        (
            "abc",
            {"ab": tcp("refused", master="ok"), "cb": tcp("refused")},
            [
                "fail b: a firewall rejects connections on the TCP ports that ranks open, to and from a, c; "
                "an open master port is not enough → " + NFT.format("10.0.0.1, 10.0.0.3", RANGE)
            ],
        ),
        (
            "abc",
            {"ab": tcp("unreachable"), "cb": tcp("unreachable")},
            [
                "fail b: no route leads to the TCP ports that ranks open, to and from a, c → "
                "check the route on the other host: ip route get 10.0.0.2; or set interface: or fabric_address:"
            ],
        ),
        (
            "abc",
            {"ab": tcp("No buffer space"), "cb": tcp("No buffer space")},
            [
                "fail b: nothing answers (No buffer space) on the TCP ports that ranks open, to and from a, c → "
                + NFT.format("10.0.0.1, 10.0.0.3", RANGE)
            ],
        ),
        # What is said of a node is what those found who dialled it, if any did in vain.
        (
            "abc",
            {"ab": tcp("timeout"), "ca": tcp("refused")},
            [
                "fail a: a firewall rejects connections on the TCP ports that ranks open, to and from b, c → "
                + NFT.format("10.0.0.2, 10.0.0.3", RANGE)
            ],
        ),
        (
            "abc",
            {"ab": tcp("timeout"), "ac": tcp("refused")},
            [
                "fail a: a firewall drops connections on the TCP ports that ranks open, to and from b, c → "
                + NFT.format("10.0.0.2, 10.0.0.3", RANGE)
            ],
        ),
        (
            "abcdef",
            {pair: tcp("timeout") for pair in ("af", "bf", "cf", "df", "ef")},
            [
                "fail f: a firewall drops connections on the TCP ports that ranks open, to and from a, b, c "
                "and 2 more → " + NFT.format("10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4, 10.0.0.5", RANGE)
            ],
        ),
        (
            "abcde",
            {pair: tcp("timeout") for pair in ("ae", "be", "ce", "de")},
            [
                "fail e: a firewall drops connections on the TCP ports that ranks open, to and from a, b, c, d → "
                + NFT.format("10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4", RANGE)
            ],
        ),
        (
            "abc",
            {"ab": tcp("timeout")},
            [
                "fail a -> b: a firewall drops connections on the TCP ports that ranks open → "
                + NFT.format("10.0.0.1", RANGE)
            ],
        ),
        (
            "abc",
            {"ab": tcp("unreachable")},
            [
                "fail a -> b: no route leads to the TCP ports that ranks open → "
                "check the route on the other host: ip route get 10.0.0.2; or set interface: or fabric_address:"
            ],
        ),
        (
            "abc",
            {"ab": tcp("other")},
            [
                "fail a -> b: another machine answers at 10.0.0.9: two machines have the same address → "
                "give each machine its own address, or set fabric_address:"
            ],
        ),
        # A pair that loses packets is left to the check of packet loss.
        ("abc", {"ab": tcp("timeout", loss=0.5)}, []),
    ],
)
def test_connections(names: str, changed: dict[str, Any], lines: list[str]) -> None:
    assert told(pairs.connections, linked(names, **changed)) == lines


@pytest.mark.parametrize(
    ("changed", "lines"),
    [
        ({"ba": {"master": "ok"}, "ca": {"master": None}}, []),
        (
            {"ba": {"master": "timeout"}, "ca": {"master": "refused"}},
            [
                "fail a: a firewall drops connections on the master port from b, c; other ports are open → "
                + NFT.format("10.0.0.2, 10.0.0.3", RANGE)
            ],
        ),
        (
            {"ca": {"master": "unreachable"}},
            [
                "fail a: no route leads to the master port from c; other ports are open → "
                "check the route on the other host: ip route get 10.0.0.1; or set interface: or fabric_address:"
            ],
        ),
        ({"ba": tcp("timeout", master="timeout"), "ca": {"master": "timeout", "loss": 0.5}}, []),
    ],
)
def test_the_way_to_the_master_port(changed: dict[str, Any], lines: list[str]) -> None:
    assert told(pairs.master, linked("abc", **changed)) == lines


LOST = "of packets or their answers are lost → check the cable, the switch port and the interface's error counters"


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"ab": {"loss": 0.05}}, None),
        ({"ab": {"loss": 0.06}}, f"warn a -> b: 6% {LOST}: ip -s link"),
        ({"ab": {"loss": 0.2}}, f"warn a -> b: 20% {LOST}: ip -s link"),
        ({"ab": {"loss": 0.21}}, f"fail a -> b: 21% {LOST}: ip -s link"),
        ({"ab": {"loss": 0.94}}, f"fail a -> b: 94% {LOST}: ip -s link"),
        # A firewall drops nearly all.
        ({"ab": {"loss": 0.95}}, None),
        # Both directions are one finding, and so are all pairs of one node; the worst is told.
        ({"ab": {"loss": 0.1}, "ba": {"loss": 0.12}}, f"warn a -> b: 12% {LOST}: ip -s link"),
        ({"ab": {"loss": 0.1}, "cb": {"loss": 0.3}}, f"fail b: 30% {LOST}: ip -s link"),
    ],
)
def test_packet_loss(changed: dict[str, Any], line: str | None) -> None:
    assert told(pairs.packet_loss, linked("abcd" if line and "->" in line else "abc", **changed)) == (
        [] if line is None else [line]
    )


SAME_MTU = "set the same MTU on all interfaces on the way; to try a smaller one: ip link set dev IFACE mtu 1400"
SMALL = "small messages arrive but full-size packets are lost: the first large tensor would hang"


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"ab": {"bulk": (4096, 2.0)}}, None),
        ({"ab": {"bulk": (4095, 2.0)}}, f"fail a -> b: {SMALL} (MTU 1500) → {SAME_MTU}"),
        # Without a round trip, nothing arrives at all; lost datagrams are another check's.
        ({"ab": {"bulk": (0, 2.0), "rtt": None}}, None),
        ({"ab": {"bulk": (0, 2.0), "loss": 0.5}}, None),
        ({"ab": {"bulk": None}}, None),
        ({"ab": {"bulk": (0, 2.0)}, "cb": {"bulk": (0, 2.0)}}, f"fail b: {SMALL} (MTU 1500) → {SAME_MTU}"),
        # Of streams that share a narrow link, one may starve; at 1 MB/s a link is not narrow.
        ({"ab": {"bulk": (0, 2.0)}, "cb": {"bulk": (1_999_999, 2.0)}}, None),
        (
            {"ab": {"bulk": (0, 2.0)}, "cb": {"bulk": (2_000_000, 2.0)}},
            f"fail a -> b: {SMALL} (MTU 1500) → {SAME_MTU}",
        ),
        ({"ab": {"bulk": (0, 2.0)}, "cb": {"bulk": (4096, 2.0)}}, None),
        ({"ab": {"bulk": (4096, 2.0)}, "cd": {"bulk": (5000, 2.0)}, "dc": {"bulk": (5000, 2.0)}}, None),
        # The node with the most narrow links is the narrow one: c, not b.
        (
            {"ab": {"bulk": (0, 2.0)}, "cb": {"bulk": (5000, 2.0)}, "cd": {"bulk": (5000, 2.0)}},
            f"fail a -> b: {SMALL} (MTU 1500) → {SAME_MTU}",
        ),
    ],
)
def test_full_packets(changed: dict[str, Any], line: str | None) -> None:
    assert told(pairs.full_packets, linked("abc" if line and "fail b:" in line else "abcd", **changed)) == (
        [] if line is None else [line]
    )


def with_mtus(seen: Examined, **mtus: int | None) -> Examined:
    facts = {
        name: replace(
            known, parts=known.parts.replace(interfaces={"eth0": ETHERNET.replace(mtu=mtus.get(name, 1500))})
        )
        for name, known in seen.facts.items()
    }
    return replace(seen, facts=facts)


def test_mtus_that_differ_are_told() -> None:
    stalled = linked("abc", ab={"bulk": (0, 2.0)})
    assert told(pairs.full_packets, with_mtus(stalled, a=9000)) == [
        f"fail a -> b: {SMALL} (MTU 1500, 9000) → {SAME_MTU}"
    ]
    assert told(pairs.full_packets, with_mtus(stalled, a=None, b=None)) == [f"fail a -> b: {SMALL} → {SAME_MTU}"]
    unknown = replace(stalled, facts={name: node(name) for name in "abc"})
    assert told(pairs.full_packets, unknown) == [f"fail a -> b: {SMALL} → {SAME_MTU}"]
    mixed = with_mtus(linked("abcd"), b=9000, c=None)
    line = (
        "warn b: the MTU is 9000; most hosts have 1500: large packets may be lost on another path → "
        "set the MTU of eth0 there to that of the other hosts"
    )
    assert told(pairs.equal_mtus, mixed) == [line]
    assert told(pairs.equal_mtus, replace(mixed, one_machine=True)) == []
    # A pair over which large packets are lost says more than the difference does.
    assert told(pairs.equal_mtus, with_mtus(stalled, a=9000)) == []


LINK = (
    "each way, others carry {}: the slow link holds all ranks back → check the link speed (ethtool IFACE) and the "
)
CABLE_OR = "cable, or leave the host out with --nodes"


@pytest.mark.parametrize(
    ("names", "changed", "line"),
    [
        # A link is slow below a fifth of the others' rate and below 100 Mbit/s.
        ("abcd", {"ab": {"bulk": (12_500_000, 1.0)}}, None),
        (
            "abcd",
            {"ab": {"bulk": (24_999_998, 2.0)}, "ba": {"bulk": (6_250_000, 1.0)}},
            "warn a -> b: the link carries 50.0 Mbit/s " + LINK.format(800) + CABLE_OR,
        ),
        (
            "abc",
            {"ab": {"bulk": (2_000_000, 1.0)}, "cb": {"bulk": (1_000_000, 1.0)}},
            "warn b: the link carries 8.0 Mbit/s " + LINK.format(800) + CABLE_OR,
        ),
        (
            "abc",
            {pair: {"bulk": (2_000_000, 1.0)} for pair in ("ab", "ba", "bc", "cb")},
            "warn b: the link carries 16.0 Mbit/s " + LINK.format(800) + CABLE_OR,
        ),
        ("abcd", {"ab": {"bulk": (1_000_000, 1.0), "loss": 0.1}}, None),
        ("abcd", {"ab": {"bulk": (0, 1.0)}}, None),
        ("abcd", {"ab": {"bulk": (0, 0.0)}}, None),
        # Two nodes have no others to compare with.
        ("ab", {"ab": {"bulk": (12_500_000, 1.0)}, "ba": {"bulk": (12_500_000, 1.0)}}, None),
        (
            "ab",
            {"ab": {"bulk": (12_000_000, 1.0)}, "ba": {"bulk": (12_000_000, 1.0)}},
            "warn a -> b: the link carries 96.0 Mbit/s " + LINK.format(96) + CABLE_OR,
        ),
    ],
)
def test_throughput(names: str, changed: dict[str, Any], line: str | None) -> None:
    assert told(pairs.throughput, linked(names, **changed)) == ([] if line is None else [line])


def test_links_that_are_all_slow_are_compared_with_each_other() -> None:
    slow = WELL.replace(bulk=(10_000_000, 1.0))
    for rate, found in ((2_000_000, 0), (1_999_999, 1)):
        assert len(told(pairs.throughput, linked("abcd", slow, ab={"bulk": (rate, 1.0)}))) == found
    two = linked("abc", slow)
    three = replace(two, probes={"a": {"b": slow, "c": slow}, "b": {"c": slow}})
    assert told(pairs.throughput, three) == []


FAST_NETWORK = "if the host is on another network, name the fast one with interface: or fabric_address:"


@pytest.mark.parametrize(
    ("usual", "changed", "line"),
    [
        # A round trip is long above 5 ms and above five times that of the others.
        (1e-4, {"ab": {"rtt": 0.005}}, None),
        (
            1e-4,
            {"ab": {"rtt": 0.0051}},
            f"warn a -> b: a round trip takes 5.1 ms, others 0.10 ms → {FAST_NETWORK}",
        ),
        (0.002, {"ab": {"rtt": 0.01}}, None),
        (
            0.002,
            {"ab": {"rtt": 0.0101}},
            f"warn a -> b: a round trip takes 10.1 ms, others 2.00 ms → {FAST_NETWORK}",
        ),
        (1e-4, {"ab": {"rtt": 0.001}}, None),
        (1e-4, {"ab": {"rtt": 0.9, "loss": 0.1}}, None),
        (
            1e-4,
            {"ab": {"rtt": 0.03}, "ba": {"rtt": 0.04}},
            f"warn a -> b: a round trip takes 40.0 ms, others 0.10 ms → {FAST_NETWORK}",
        ),
    ],
)
def test_latency(usual: float, changed: dict[str, Any], line: str | None) -> None:
    assert told(pairs.latency, linked("abcd", WELL.replace(rtt=usual), **changed)) == (
        [] if line is None else [line]
    )


def test_round_trips_are_compared_from_three_on() -> None:
    far, near = WELL.replace(rtt=0.5), WELL
    seen = linked("abc")
    assert told(pairs.latency, replace(seen, probes={"a": {"b": far, "c": near}})) == []
    assert told(pairs.latency, replace(seen, probes={"a": {"b": far, "c": near}, "b": {"c": near}})) == [
        f"warn a -> b: a round trip takes 500.0 ms, others 0.10 ms → {FAST_NETWORK}"
    ]


REFUSED = "u@10.0.0.2: Permission denied (publickey)."
COPY_ID = "run where the login starts: ssh-keygen -t ed25519 (if it has no key), then ssh-copy-id"


@pytest.mark.parametrize(
    ("bad", "line"),
    [
        ({}, None),
        ({"ab": REFUSED}, f"a -> b: SSH without a password fails: {REFUSED} → {COPY_ID} 10.0.0.2"),
        (
            {"ab": "Host key verification failed."},
            "a -> b: SSH without a password fails: Host key verification failed. → compare the key, then record it "
            "where the login starts: ssh-keyscan 10.0.0.2 >> ~/.ssh/known_hosts",
        ),
        (
            {"ab": "ssh cannot be started: no such file"},
            "a -> b: SSH without a password fails: ssh cannot be started: no such file → install SSH where the "
            "login starts: apt install openssh-client, or dnf install openssh-clients",
        ),
        (
            {"ab": REFUSED, "cb": "Host key verification failed."},
            f"b: SSH without a password fails to and from a, c: {REFUSED} → {COPY_ID} 10.0.0.2",
        ),
        (
            {"ba": REFUSED, "bc": "Host key verification failed."},
            f"b: SSH without a password fails to and from a, c: {REFUSED} → {COPY_ID} 10.0.0.1",
        ),
    ],
)
def test_logins(bad: dict[str, str], line: str | None) -> None:
    logins = {a: {b: bad.get(a + b, "ok") for b in "abc" if a != b} for a in "abc"}
    seen = replace(linked("abc"), logins=logins)
    assert told(pairs.logins, seen) == ([] if line is None else [f"fail {line}"])


def test_a_host_without_a_known_address_is_named_in_the_remedy() -> None:
    seen = replace(linked("ab"), addresses={}, logins={"a": {"b": REFUSED}})
    (line,) = told(pairs.logins, seen)
    assert line.endswith("then ssh-copy-id b")


# ---- what must agree


def differing(look: Callable[[Examined], Iterator[Finding]], usual: Facts, **known: Facts) -> list[str]:
    """Return what is told of these nodes beside two others with the facts ``usual``."""
    others = [replace(node(name), parts=usual.parts, python=usual.python) for name in "xy"]
    return told(look, examined(*others, *known.values()))


PACKAGES = {"nvidia-nccl-cu12": "2.21", "nvidia-cudnn-cu12": "9.1", "torchvision": "0.20"}
USUAL = node(versions=VERSIONS.replace(packages=PACKAGES), torch=TORCH)


def packed(**changes: str) -> Facts:
    versions = VERSIONS.replace(
        packages={**PACKAGES, **{name.replace("_", "-"): v for name, v in changes.items()}}
    )
    return node(versions=versions, torch=TORCH)


@pytest.mark.parametrize(
    ("known", "lines"),
    [
        (USUAL, []),
        (node(), []),
        (
            node(facts={"python": PYTHON.replace(torch="2.6.0")}),
            ["warn b: torch is 2.6.0; most hosts have 2.5.1 → run there: /py -m pip install torch==2.5.1"],
        ),
        (
            packed(nvidia_nccl_cu12="2.20"),
            [
                "fail b: NCCL is 2.20; most hosts have 2.21 → "
                "run there: /py -m pip install --force-reinstall torch==2.5.1"
            ],
        ),
        (
            packed(nvidia_cudnn_cu12="9.0"),
            [
                "warn b: cuDNN is 9.0; most hosts have 9.1 → "
                "run there: /py -m pip install --force-reinstall torch==2.5.1"
            ],
        ),
        (
            packed(torchvision="0.19"),
            [
                "warn b: torchvision is 0.19; most hosts have 0.20 → run there: /py -m pip install torchvision==0.20"
            ],
        ),
        (
            node(torch=TORCH.replace(cuda="11.8")),
            [
                "warn b: torch is built for CUDA 11.8; on most hosts for CUDA 12.4 → "
                "install the torch wheel there that is built for the CUDA version of the other hosts"
            ],
        ),
        (
            node(facts={"python": PYTHON.replace(version="3.10.2")}),
            [
                "warn b: Python is 3.10; most hosts have 3.11: one may not be able to read the pickles of another → "
                "set python: for this host to an interpreter of that version"
            ],
        ),
        (node(facts={"python": PYTHON.replace(version="3.11.9")}), []),
        (node(facts={"python": Interpreter(path="/py", error="killed")}), []),
        # Another torch brings packages of its own, which need no finding of their own.
        (
            replace(packed(nvidia_nccl_cu12="2.20"), python=PYTHON.replace(torch="2.6.0")),
            ["warn b: torch is 2.6.0; most hosts have 2.5.1 → run there: /py -m pip install torch==2.5.1"],
        ),
    ],
)
def test_versions(known: Facts, lines: list[str]) -> None:
    assert differing(cluster.versions, USUAL, b=known) == lines


def test_gpus_and_drivers_that_differ() -> None:
    other = {**GPU, "driver_version": "535.2", "name": "A100"}
    remedy = "install the same driver on all hosts; of different GPUs, leave the slowest out: it sets the pace"
    assert differing(cluster.drivers, node(gpus=(GPU,)), b=node(gpus=(GPU, other)), c=node("c", gpus=())) == [
        f"warn b: the GPU driver is 535.2, 570.1; most hosts have 570.1 → {remedy}",
        f"warn b: the GPU model is A100, H100; most hosts have H100 → {remedy}",
    ]


ENVIRONMENT = "leave the host out with --nodes, or give it an environment of its own (python:)"


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"machine": "", "libc": ""}, []),
        (
            {"machine": "aarch64"},
            [
                "fail b: the processor is aarch64; most hosts have x86_64: one environment may not fit all → "
                + ENVIRONMENT
            ],
        ),
        (
            {"libc": "glibc 2.17"},
            [
                "warn b: the C library is glibc 2.17; most hosts have glibc 2.36: one environment may not fit all → "
                + ENVIRONMENT
            ],
        ),
        ({"kernel": "5.5.0"}, []),
        ({"kernel": "odd"}, []),
        (
            {"kernel": "5.4.99-generic"},
            [
                "warn b: the kernel is Linux 5.4.99-generic: PyTorch processes hang on kernels before 5.5 → "
                "update the system, or watch for ranks that hang"
            ],
        ),
        (
            {"kernel": "4.18.0"},
            [
                "warn b: the kernel is Linux 4.18.0: PyTorch processes hang on kernels before 5.5 → "
                "update the system, or watch for ranks that hang"
            ],
        ),
    ],
)
def test_systems(changes: dict[str, str], lines: list[str]) -> None:
    assert differing(cluster.systems, node(), b=node(system=SYSTEM.replace(**changes))) == lines


HOSTS_FILE = "orch uses addresses, not names; for other launchers, correct /etc/hosts or the name server there"


@pytest.mark.parametrize(
    ("names", "lines"),
    [
        ({"x": ("10.0.0.24",), "gone": ()}, []),
        ({}, []),
        ({"x": ()}, [f"warn b: x does not resolve; on most hosts it resolves to 10.0.0.24 → {HOSTS_FILE}"]),
        (
            {"x": ("10.0.0.1", "10.0.0.2")},
            [f"warn b: x resolves to 10.0.0.1, 10.0.0.2; on most hosts to 10.0.0.24 → {HOSTS_FILE}"],
        ),
        ({"b": ("127.0.1.1",)}, []),
    ],
)
def test_names(names: dict[str, tuple[str, ...]], lines: list[str]) -> None:
    everywhere = {"gone": (), "only here": ("10.0.0.9",), "b": ("10.0.0.2",), "x": ("10.0.0.24",)}
    usual = [node(name, names=everywhere) for name in "cd"]
    assert told(cluster.names, examined(*usual, node(names=names), node("x", names={"x": ("::1",)}))) == lines
    # Two hosts are enough; of two that differ, the first counts as most.
    assert told(cluster.names, examined(usual[0], node(names=names))) == lines


@pytest.mark.parametrize(("system", "sudo"), [(SYSTEM, "sudo "), (ROOT, "")])
def test_a_clock_that_nothing_keeps(system: System, sudo: str) -> None:
    states = {"a": True, "b": False, "c": None}
    known = [node(name, timekeeping=Timekeeping(synchronised=s), system=system) for name, s in states.items()]
    assert told(cluster.timekeeping, examined(*known, node("d"))) == [
        "warn b: the clock is not synchronised by NTP; on other hosts it is → "
        f"run there: {sudo}timedatectl set-ntp true"
    ]
    assert told(cluster.timekeeping, examined(*known[1:], node("d"))) == []


@pytest.mark.parametrize(
    ("offset", "line"),
    [
        (1.0, None),
        (-1.0, None),
        (1.1, "warn b: the clock is 1.1 s ahead of the others"),
        (-1.1, "warn b: the clock is 1.1 s behind the others"),
        (10.0, "warn b: the clock is 10.0 s ahead of the others"),
        (10.1, "fail b: the clock is 10.1 s ahead of the others"),
        (-10.1, "fail b: the clock is 10.1 s behind the others"),
    ],
)
def test_clocks(offset: float, line: str | None) -> None:
    remedy = "run there: {0}chronyc makestep, or {0}timedatectl set-ntp true"
    for system, sudo in ((SYSTEM, "sudo "), (ROOT, "")):
        known = node(facts={"clock_offset": offset}, system=system)
        found = told(cluster.clocks, examined(node("a"), known, node("c")))
        assert found == ([] if line is None else [f"{line} → {remedy.format(sudo)}"])


def test_of_two_clocks_the_later_one_is_ahead() -> None:
    seen = examined(node("a"), node(facts={"clock_offset": 5.0}))
    assert [line.partition(" → ")[0] for line in told(cluster.clocks, seen)] == [
        "warn b: the clock is 5.0 s ahead of the others"
    ]
    assert told(cluster.clocks, examined(node(facts={"clock_offset": 5.0}))) == []
    # All agree, and this machine's clock is off.
    assert told(cluster.clocks, examined(*(node(name, {"clock_offset": 50.0}) for name in "abc"))) == []


def test_environment_variables_that_differ() -> None:
    usual = node(variables=Variables(drift={"NCCL_DEBUG": "INFO"}))
    other = node(variables=Variables(drift={"CUDA_X": "1"}))
    assert differing(cluster.variables, usual, b=other, c=node("c")) == [
        f"warn b: the environment has {setting} → "
        f"remove it from the login shell's files there, or set it on all hosts: --env {name}=..."
        for name, setting in (
            ("CUDA_X", "CUDA_X=1; most hosts have (unset)"),
            ("NCCL_DEBUG", "NCCL_DEBUG=(unset); most hosts have INFO"),
        )
    ]


def test_hosts_that_are_one_machine_or_have_one_name() -> None:
    def machine(name: str, boot_id: str, network: str, hostname: str) -> Facts:
        return node(name, {"hostname": hostname}, system=SYSTEM.replace(boot_id=boot_id, network=network))

    seen = examined(
        machine("a", "1", "n", "gpu"),
        machine("b", "1", "n", "gpu"),
        machine("c", "1", "other", "box"),
        machine("d", "2", "n", "box"),
        machine("e", "", "n", "e"),
        machine("f", "", "n", "f"),
    )
    assert told(cluster.identities, seen) == [
        "fail a, b: are one machine: two torchruns would compete for its lock and its GPUs → "
        "remove all but one of them from the inventory",
        "warn c, d: all have the host name 'box': NCCL takes them for one node → "
        "give each its own name: sudo hostnamectl set-hostname NAME",
    ]
    assert told(cluster.identities, replace(seen, one_machine=True)) == []


def addressed(name: str, *addresses: tuple[str, str]) -> Facts:
    return node(name, {"addresses": tuple(Address(interface, address, 24) for interface, address in addresses)})


def test_ipv4_is_everywhere_or_nowhere() -> None:
    both, six = (
        addressed("a", ("e", "fd00::1"), ("e", "10.0.0.1")),
        addressed("b", ("lo", "127.0.0.1"), ("e", "fd00::2")),
    )
    line = (
        "warn b: IPv4 is missing, unlike on other hosts: the ends of a connection may use different families → "
        "add an IPv4 address, or set NCCL_SOCKET_FAMILY=AF_INET6 and fabric_address: on all hosts"
    )
    assert told(cluster.families, examined(both, six)) == [line]
    assert told(cluster.families, examined(both, six, one_machine=True)) == []
    assert told(cluster.families, examined(six, replace(six, node="c"))) == []
    assert told(cluster.families, examined(both)) == []


def test_an_address_that_two_hosts_have() -> None:
    loopback = (("lo", "127.0.0.1"), ("lo", "::1"))
    known = [addressed(name, *loopback, ("br0", "172.17.0.1"), (name, "10.0.0.1")) for name in "ab"]
    assert told(cluster.addresses, examined(*known)) == [
        "warn a, b: all have 172.17.0.1 on br0, which leads each of them to itself → "
        "for other launchers, set GLOO_SOCKET_IFNAME; orch leaves the address out by itself"
    ]
    assert told(cluster.addresses, examined(*known, one_machine=True)) == []


@pytest.mark.parametrize(
    ("others", "mine", "cores", "line"),
    [
        # More than two processes wait for each core, and more than three times as many as usual plus one.
        ([0.0, 0.0], 2.0, 1, None),
        ([0.0, 0.0], 2.1, 1, "2.1"),
        ([0.0, 0.0], 4.2, 2, "2.1"),
        ([0.0, 0.0], 4.0, 2, None),
        ([1.0, 1.0], 4.0, 1, None),
        ([1.0, 1.0], 4.1, 1, "4.1"),
        ([0.1, 0.1], 1.9, 1, None),
        ([0.0], 2.1, 1, "2.1"),
        ([], 99.0, 1, None),
    ],
)
def test_load(others: list[float], mine: float, cores: int, line: str | None) -> None:
    rest = [
        node(name, memory=MEMORY.replace(load=load, cores=1)) for name, load in zip("cd", others, strict=False)
    ]
    seen = examined(node(memory=MEMORY.replace(load=mine, cores=cores)), *rest, node("z"))
    assert told(cluster.load, seen) == (
        []
        if line is None
        else [f"warn b: {line} processes wait for each core → see which processes run there: top"]
    )


def test_trees_that_differ() -> None:
    usual, mine = KEPT.replace(newest="0123456789" * 3), KEPT.replace(newest="abcdefghij" * 3)
    assert differing(cluster.trees, node(kept=usual), b=node(kept=mine), c=node("c", kept=KEPT), d=node("d")) == [
        f"warn {name}: the last synced tree of this project is {tree}; on most hosts 01234567 → "
        "run orch sync; orch run syncs by itself"
        for name, tree in (("b", "abcdefgh"), ("c", "none"))
    ]
    assert told(cluster.trees, examined(node("a", kept=KEPT), node("b", kept=KEPT))) == []


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "lustre", "beegfs", "gpfs"])
def test_a_shared_home_that_may_not_be_mounted(kind: str) -> None:
    def at(name: str, kind: str) -> Facts:
        return node(name, home=Home(path="/home/u", kind=kind, host=name))

    line = (
        f"warn b: the home folder is on ext4; on most hosts on {kind}: it may not be mounted → "
        "mount the home folder there (mount -a), and see why that failed before"
    )
    assert told(cluster.shared_homes, examined(at("a", kind), at("b", "ext4"), at("c", kind))) == [line]
    # Half of the hosts are not most of them.
    assert told(cluster.shared_homes, examined(at("a", kind), at("b", "ext4"))) == []
    assert told(cluster.shared_homes, examined(at("a", kind), at("b", "ext4"), node("c"))) == []


def test_a_workdir_on_a_network_file_system() -> None:
    def working(name: str, home: str, work: str) -> Facts:
        disk = DISK.replace(kind=work)
        return node(name, home=Home(path="/home/u", kind=home, host=name), disks={"workdir": disk, "home": DISK})

    known = [working("a", "nfs4", "nfs4"), working("b", "nfs4", "ext4"), working("c", "nfs4", "nfs4")]
    assert told(cluster.shared_homes, examined(*known)) == [
        "warn a, c: workdir is on a network file system (nfs4): every rank reads and writes through it → "
        "set workdir: to a local disk"
    ]
