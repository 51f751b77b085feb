"""The exact findings about single nodes, for facts at the limits of each check and just beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.checks import nodes
from orchestrator.core.checks.facts import Address, Facts
from orchestrator.core.checks.findings import (
    EndLeftovers,
    Examined,
    Finding,
    MakeFolder,
    SetKey,
)
from orchestrator.core.checks.nodes import GIB, MIB
from orchestrator.core.text.duration import duration
from orchestrator.protocol.facts import (
    Logout,
    OwnName,
    Running,
)
from tests.unit.checks.facts import (
    DISK,
    ETHERNET,
    KEPT,
    LIMITS,
    MEMORY,
    ROOT,
    SYSTEM,
    examined,
    node,
    told,
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
        "fail a: busy with run r1 (t.py) of u@h, which started 60 s ago; a host takes one run at a time → "
        + busy.format("r1"),
        "fail b: busy with run r1 (t.py) of u@h, which started 60 s ago; a host takes one run at a time → "
        + busy.format("r1"),
        "fail c: busy with run r2 (t.py) of u@h, which started 3 min ago; a host takes one run at a time → "
        + busy.format("r2"),
        "fail d: taken by u@h; a host takes one run at a time → have that user, or root there, end the run: orch stop --all",
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
    assert {seconds: duration(seconds) for seconds in durations} == durations


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
