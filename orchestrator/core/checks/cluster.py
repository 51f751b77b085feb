"""Checks of what must agree across nodes."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from orchestrator.core.checks.findings import Examined, Finding, fail, most_common, warn

CLOCK_WARN, CLOCK_FAIL = 1.0, 10.0
BUSY_LOAD = 2.0
OLD_KERNEL = [5, 5]


def _differing(
    values: Mapping[str, Any], tell: Callable[[str, Any, Any], tuple[str, str]], severity: str
) -> Iterator[Finding]:
    """Yield a finding for each node whose value differs from the most frequent one, unless the value is None."""
    known = {node: value for node, value in values.items() if value is not None}
    most = most_common(known)
    for node, value in known.items():
        if value != most:
            what, remedy = tell(node, value, most)
            yield Finding((node,), severity, what, remedy)


def versions(examined: Examined) -> Iterator[Finding]:
    """Check versions of torch, NCCL, cuDNN, torchvision, CUDA and Python.

    torch does not check them itself (pytorch#24273), and a difference fails with misleading errors.
    """
    facts = examined.facts

    def package(name: str) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        for node in facts:
            known = examined.parts(node).versions
            packages = known.packages if known is not None else {}
            found[node] = next((packages[each] for each in packages if each.startswith(name)), None)
        return found

    torch = {node: known.python.torch for node, known in facts.items()}
    yield from _differing(
        torch,
        lambda node, mine, most: (
            f"torch is {mine}; most hosts have {most}",
            f"run there: {facts[node].python.path} -m pip install torch=={most}",
        ),
        "warn",
    )
    agreeing = {node for node, value in torch.items() if value == most_common(torch)}
    for name, title in (("nvidia-nccl", "NCCL"), ("nvidia-cudnn", "cuDNN"), ("torchvision", "torchvision")):
        # NCCL and cuDNN come with torch.
        install = f"--force-reinstall torch=={most_common(torch)}" if name.startswith("nvidia") else name + "=={}"
        yield from _differing(
            {node: value for node, value in package(name).items() if node in agreeing},
            lambda node, mine, most, title=title, install=install: (  # type: ignore[misc]
                f"{title} is {mine}; most hosts have {most}",
                f"run there: {facts[node].python.path} -m pip install {install.format(most)}",
            ),
            "fail" if name == "nvidia-nccl" else "warn",
        )
    cuda = {node: known.cuda for node in facts if (known := examined.parts(node).torch) is not None}
    yield from _differing(
        {node: value for node, value in cuda.items() if node in agreeing},
        lambda node, mine, most: (
            f"torch is built for CUDA {mine}; on most hosts for CUDA {most}",
            "install the torch wheel there that is built for the CUDA version of the other hosts",
        ),
        "warn",
    )
    yield from _interpreters(examined)


def _interpreters(examined: Examined) -> Iterator[Finding]:
    pythons = {
        node: ".".join(known.python.version.split(".")[:2]) if known.python.version else None
        for node, known in examined.facts.items()
    }
    yield from _differing(
        pythons,
        lambda node, mine, most: (
            f"Python is {mine}; most hosts have {most}: one may not be able to read the pickles of another",
            "set python: for this host to an interpreter of that version",
        ),
        "warn",
    )


def drivers(examined: Examined) -> Iterator[Finding]:
    """Check that GPU models and driver versions agree."""
    for field, title in (("driver_version", "the GPU driver"), ("name", "the GPU model")):
        values = {}
        for host in examined.hosts:
            found = examined.parts(host.name).gpus or ()
            values[host.name] = ", ".join(sorted({gpu[field] for gpu in found})) or None
        yield from _differing(
            values,
            lambda node, mine, most, title=title: (  # type: ignore[misc]
                f"{title} is {mine}; most hosts have {most}",
                "install the same driver on all hosts; of different GPUs, leave the slowest out: it sets the pace",
            ),
            "warn",
        )


def systems(examined: Examined) -> Iterator[Finding]:
    """Check that processors and C libraries agree, and that no kernel is too old for PyTorch."""
    for field, title, severity in (("machine", "processor", "fail"), ("libc", "C library", "warn")):
        values = {host.name: getattr(examined.system(host.name), field) or None for host in examined.hosts}
        yield from _differing(
            values,
            lambda node, mine, most, title=title: (  # type: ignore[misc]
                f"the {title} is {mine}; most hosts have {most}: one environment may not fit all",
                "leave the host out with --nodes, or give it an environment of its own (python:)",
            ),
            severity,
        )

    for host in examined.hosts:
        kernel = examined.system(host.name).kernel
        numbers = [int(word) for word in re.findall(r"\d+", kernel)[:2]]
        if len(numbers) == 2 and numbers < OLD_KERNEL:
            what = f"the kernel is Linux {kernel}: PyTorch processes hang on kernels before 5.5"
            yield warn(host.name, what, "update the system, or watch for ranks that hang")


def names(examined: Examined) -> Iterator[Finding]:
    """Check that a host's name resolves to the same address on every node (pytorch#150532)."""
    asked = {host.name: examined.parts(host.name).names or {} for host in examined.hosts}
    for name in dict.fromkeys(name for known in asked.values() for name in known):
        # A host may resolve its own name differently; the check ``hostname`` covers that.
        values = {
            host.name: tuple(asked[host.name][name])
            for host in examined.hosts
            if name in asked[host.name] and name not in (host.name, host.address)
        }
        if len(values) < 2 or not most_common(values):
            continue
        yield from _differing(
            values,
            lambda node, mine, most, name=name: (  # type: ignore[misc]
                f"{name} resolves to {', '.join(mine)}; on most hosts to {', '.join(most)}"
                if mine
                else f"{name} does not resolve; on most hosts it resolves to {', '.join(most)}",
                "orch uses addresses, not names; for other launchers, correct /etc/hosts or the name server there",
            ),
            "warn",
        )


def timekeeping(examined: Examined) -> Iterator[Finding]:
    """Check that the clock is synchronised on every node if it is on any."""
    known = {host.name: examined.parts(host.name).timekeeping for host in examined.hosts}
    states = {node: state and state.synchronised for node, state in known.items()}
    if not any(states.values()):
        return
    for node, state in states.items():
        if state is False:
            sudo = "" if examined.system(node).root else "sudo "
            yield warn(
                node,
                "the clock is not synchronised by NTP; on other hosts it is",
                f"run there: {sudo}timedatectl set-ntp true",
            )


def variables(examined: Examined) -> Iterator[Finding]:
    """Check that environment variables that affect torch and NCCL are the same on all nodes (nccl#1328)."""
    seen = {host.name: examined.parts(host.name).variables for host in examined.hosts}
    known = {node: value.drift for node, value in seen.items() if value is not None}
    for name in sorted({name for drift in known.values() for name in drift}):
        values = {node: drift.get(name, "(unset)") for node, drift in known.items()}
        yield from _differing(
            values,
            lambda node, mine, most, name=name: (  # type: ignore[misc]
                f"the environment has {name}={mine}; most hosts have {most}",
                f"remove it from the login shell's files there, or set it on all hosts: --env {name}=...",
            ),
            "warn",
        )


def clocks(examined: Examined) -> Iterator[Finding]:
    """Check that clocks agree: c10d compares wall clocks, and a difference of 60 s made a good run exit with 1."""
    known = {node: facts.clock_offset for node, facts in examined.facts.items()}
    if len(known) < 2:
        return
    middle = statistics.median_low(sorted(known.values()))
    for node, value in known.items():
        off = value - middle
        if abs(off) > CLOCK_WARN:
            severity = fail if abs(off) > CLOCK_FAIL else warn
            what = f"the clock is {abs(off):.1f} s {'ahead of' if off > 0 else 'behind'} the others"
            sudo = "" if examined.system(node).root else "sudo "
            yield severity(node, what, f"run there: {sudo}chronyc makestep, or {sudo}timedatectl set-ntp true")


def identities(examined: Examined) -> Iterator[Finding]:
    """Check that each host is a machine with its own name: NCCL identifies nodes by host name and boot id."""
    if examined.one_machine:
        return
    machines: dict[tuple[str, str], list[str]] = {}
    names: dict[str, list[str]] = {}
    for host in examined.hosts:
        system = examined.system(host.name)
        if system.boot_id:
            # Containers share a kernel and so its boot id. Those with separate network namespaces count as
            # separate machines.
            machines.setdefault((system.boot_id, system.network), []).append(host.name)
        names.setdefault(examined.facts[host.name].hostname, []).append(host.name)
    doubled = [nodes for nodes in machines.values() if len(nodes) > 1]
    for nodes in doubled:
        what = "are one machine: two torchruns would compete for its lock and its GPUs"
        yield Finding(tuple(nodes), "fail", what, "remove all but one of them from the inventory")
    for name, nodes in names.items():
        if len(nodes) > 1 and nodes not in doubled:
            what = f"all have the host name {name!r}: NCCL takes them for one node"
            yield Finding(tuple(nodes), "warn", what, "give each its own name: sudo hostnamectl set-hostname NAME")


def families(examined: Examined) -> Iterator[Finding]:
    """Check that all nodes have IPv4 or none has: torch and NCCL each choose an address family by themselves."""
    lacking = []
    for host in examined.hosts:
        own = [entry.address for entry in examined.facts[host.name].addresses]
        if not any(":" not in address and not address.startswith("127.") for address in own):
            lacking.append(host.name)
    if lacking and len(lacking) < len(examined.hosts) and not examined.one_machine:
        what = "IPv4 is missing, unlike on other hosts: the ends of a connection may use different families"
        for name in lacking:
            yield warn(
                name,
                what,
                "add an IPv4 address, or set NCCL_SOCKET_FAMILY=AF_INET6 and fabric_address: on all hosts",
            )


def addresses(examined: Examined) -> Iterator[Finding]:
    """Check that no two nodes have the same address on the same interface: it leads each of them to itself."""
    holders: dict[tuple[str, str], list[str]] = {}
    for host in examined.hosts:
        for entry in examined.facts[host.name].addresses:
            if not entry.address.startswith("127.") and entry.address != "::1":
                holders.setdefault((entry.interface, entry.address), []).append(host.name)
    for (name, address), nodes in holders.items():
        if len(nodes) > 1 and not examined.one_machine:
            what = f"all have {address} on {name}, which leads each of them to itself"
            remedy = "for other launchers, set GLOO_SOCKET_IFNAME; orch leaves the address out by itself"
            yield Finding(tuple(nodes), "warn", what, remedy)


def load(examined: Examined) -> Iterator[Finding]:
    """Check that no node is much busier than the others."""
    loads = {}
    for host in examined.hosts:
        known = examined.parts(host.name).memory
        if known is not None:
            loads[host.name] = known.load / max(1, known.cores)
    if len(loads) < 2:
        return
    for node, value in loads.items():
        others = statistics.median(each for name, each in loads.items() if name != node)
        if value > BUSY_LOAD and value > 3 * others + 1:
            yield warn(node, f"{value:.1f} processes wait for each core", "see which processes run there: top")


def trees(examined: Examined) -> Iterator[Finding]:
    """Check that the last tree synced of the project is the same on all nodes."""
    kept = {host.name: examined.parts(host.name).kept for host in examined.hosts}
    values = {node: known.newest for node, known in kept.items() if known is not None}
    if any(values.values()):
        yield from _differing(
            {node: value or "none" for node, value in values.items()},
            lambda node, mine, most: (
                f"the last synced tree of this project is {mine[:8]}; on most hosts {most[:8]}",
                "run orch sync; orch run syncs by itself",
            ),
            "warn",
        )


def shared_homes(examined: Examined) -> Iterator[Finding]:
    """Check that shared home folders are mounted and that workdirs are on local disks.

    A shared home is no fault: orch keeps its state there under the host name and its lock elsewhere.
    """
    homes = {host.name: examined.parts(host.name).home for host in examined.hosts}
    kinds = {node: home.kind if home is not None else "" for node, home in homes.items()}
    shared = tuple(
        node for node, kind in kinds.items() if kind.startswith(("nfs", "cifs", "lustre", "beegfs", "gpfs"))
    )
    if len(shared) > len(kinds) / 2:
        for node in [name for name in kinds if name not in shared]:
            what = (
                f"the home folder is on {kinds[node]}; on most hosts on {kinds[shared[0]]}: it may not be mounted"
            )
            yield warn(node, what, "mount the home folder there (mount -a), and see why that failed before")
    disks = {node: (examined.parts(node).disks or {}).get("workdir") for node in shared}
    slow = tuple(node for node, disk in disks.items() if disk is not None and disk.kind == kinds[node])
    if slow:
        what = f"workdir is on a network file system ({kinds[slow[0]]}): every rank reads and writes through it"
        yield Finding(slow, "warn", what, "set workdir: to a local disk")
