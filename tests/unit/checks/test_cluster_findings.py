"""The exact findings about what differs between nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from orchestrator.core.checks import cluster
from orchestrator.core.checks.facts import Address, Facts
from orchestrator.core.checks.findings import (
    Examined,
    Finding,
)
from orchestrator.protocol.facts import (
    Home,
    Interpreter,
    System,
    Timekeeping,
    Variables,
)
from tests.unit.checks.facts import (
    DISK,
    GPU,
    KEPT,
    MEMORY,
    PYTHON,
    ROOT,
    SYSTEM,
    TORCH,
    VERSIONS,
    examined,
    node,
    told,
)


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
