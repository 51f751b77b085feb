"""Facts of nodes for the tests of checks: a sound node, and how one differs from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from orchestrator.core.checks.facts import Address, Facts
from orchestrator.core.checks.findings import (
    Examined,
    Finding,
)
from orchestrator.core.checks.nodes import GIB
from orchestrator.core.inventory.hosts import Host
from orchestrator.protocol.facts import (
    Disk,
    Interface,
    Interpreter,
    Limits,
    Memory,
    Parts,
    RdmaPort,
    StoredThere,
    System,
    Torch,
    Versions,
)

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
