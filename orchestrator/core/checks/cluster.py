"""Checks of what all nodes must agree on."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from orchestrator.core.checks.findings import Examined, Finding, fail, usual, warn

CLOCK_WARN, CLOCK_FAIL = 1.0, 10.0
BUSY_LOAD = 2.0
OLD_KERNEL = [5, 5]


def _differing(
    examined: Examined, values: Mapping[str, Any], tell: Callable[[str, Any, Any], tuple[str, str]], severity: str
) -> Iterator[Finding]:
    """A finding for each node whose value is not the usual one."""
    known = {node: value for node, value in values.items() if value is not None}
    most = usual(known)
    for node, value in known.items():
        if value != most:
            what, remedy = tell(node, value, most)
            yield Finding((node,), severity, what, remedy)


def versions(examined: Examined) -> Iterator[Finding]:
    """torch checks nothing itself when versions differ (pytorch#24273); the failures look like anything."""
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
        examined,
        torch,
        lambda node, mine, most: (
            f"has torch {mine}, most have {most}",
            f"there: {facts[node].python.path} -m pip install torch=={most}",
        ),
        "warn",
    )
    agreeing = {node for node, value in torch.items() if value == usual(torch)}
    for name, title in (("nvidia-nccl", "NCCL"), ("nvidia-cudnn", "cuDNN"), ("torchvision", "torchvision")):
        same_torch = {node: value for node, value in package(name).items() if node in agreeing}
        yield from _differing(
            examined,
            same_torch,
            lambda node, mine, most, title=title: (  # type: ignore[misc]
                f"has {title} {mine}, most have {most}",
                f"install the same there: {facts[node].python.path} -m pip install",
            ),
            "fail" if name == "nvidia-nccl" else "warn",
        )
    cuda = {node: known.cuda for node in facts if (known := examined.parts(node).torch) is not None}
    yield from _differing(
        examined,
        {node: value for node, value in cuda.items() if node in agreeing},
        lambda node, mine, most: (
            f"has torch for CUDA {mine}, most have it for CUDA {most}",
            f"install the same there: {facts[node].python.path} -m pip install",
        ),
        "warn",
    )
    pythons = {
        node: ".".join(known.python.version.split(".")[:2]) if known.python.version else None
        for node, known in facts.items()
    }
    yield from _differing(
        examined,
        pythons,
        lambda node, mine, most: (
            f"has Python {mine}, most have {most}: what one pickles another may not read",
            "set python: for this host to the same version",
        ),
        "warn",
    )


def drivers(examined: Examined) -> Iterator[Finding]:
    """GPUs and their drivers are alike."""
    for field, title in (("driver_version", "driver"), ("name", "GPUs")):
        values = {}
        for host in examined.hosts:
            found = examined.parts(host.name).gpus or ()
            values[host.name] = ", ".join(sorted({gpu[field] for gpu in found})) or None
        yield from _differing(
            examined,
            values,
            lambda node, mine, most, title=title: (  # type: ignore[misc]
                f"has {title} {mine}, most have {most}",
                "the slowest GPU sets the pace; drivers should be the same",
            ),
            "warn",
        )


def systems(examined: Examined) -> Iterator[Finding]:
    """Processors and C libraries are alike."""
    for field, title, severity in (("machine", "processor", "fail"), ("libc", "C library", "warn")):
        values = {host.name: getattr(examined.system(host.name), field) or None for host in examined.hosts}
        yield from _differing(
            examined,
            values,
            lambda node, mine, most, title=title: (  # type: ignore[misc]
                f"has the {title} {mine}, most have {most}: one environment may not fit all",
                "leave it out with --nodes, or give it an environment of its own (python:)",
            ),
            severity,
        )

    for host in examined.hosts:
        kernel = examined.system(host.name).kernel
        numbers = [int(word) for word in re.findall(r"\d+", kernel)[:2]]
        if len(numbers) == 2 and numbers < OLD_KERNEL:
            what = f"has Linux {kernel}: processes of PyTorch hang on kernels before 5.5"
            yield warn(host.name, what, "update its system, or keep an eye on its ranks")


def names(examined: Examined) -> Iterator[Finding]:
    """A host's name leads to one address, whichever node asks (pytorch#150532)."""
    asked = {host.name: examined.parts(host.name).names or {} for host in examined.hosts}
    for name in dict.fromkeys(name for known in asked.values() for name in known):
        # On itself a host's own name is another matter.
        values = {
            host.name: tuple(asked[host.name][name])
            for host in examined.hosts
            if name in asked[host.name] and name not in (host.name, host.address)
        }
        if len(values) < 2 or not usual(values):
            continue
        yield from _differing(
            examined,
            values,
            lambda node, mine, most, name=name: (  # type: ignore[misc]
                f"{name} leads to {', '.join(mine)} there, on most nodes to {', '.join(most)}"
                if mine
                else f"cannot resolve {name}, which leads to {', '.join(most)} on most nodes",
                "orch passes addresses to its runs; for others, correct /etc/hosts or the name server there",
            ),
            "warn",
        )


def timekeeping(examined: Examined) -> Iterator[Finding]:
    """What keeps the other clocks right keeps this one."""
    known = {host.name: examined.parts(host.name).timekeeping for host in examined.hosts}
    states = {node: state and state.synchronised for node, state in known.items()}
    if not any(states.values()):
        return
    for node, state in states.items():
        if state is False:
            sudo = "" if examined.system(node).root else "sudo "
            yield warn(
                node,
                "nothing keeps its clock right (NTP), as it does on others",
                f"there: {sudo}timedatectl set-ntp true",
            )


def variables(examined: Examined) -> Iterator[Finding]:
    """Variables that change what torch and NCCL do are the same everywhere (nccl#1328)."""
    seen = {host.name: examined.parts(host.name).variables for host in examined.hosts}
    known = {node: value.drift for node, value in seen.items() if value is not None}
    for name in sorted({name for drift in known.values() for name in drift}):
        values = {node: drift.get(name, "(unset)") for node, drift in known.items()}
        yield from _differing(
            examined,
            values,
            lambda node, mine, most, name=name: (  # type: ignore[misc]
                f"has {name}={mine}, most have {most}",
                f"take it out of the files that its login shell reads, or set it for all: --env {name}=...",
            ),
            "warn",
        )


def clocks(examined: Examined) -> Iterator[Finding]:
    """c10d compares wall clocks; sixty seconds of difference made a finished run exit with 1."""
    known = {node: facts.clock_offset for node, facts in examined.facts.items()}
    if len(known) < 2:
        return
    middle = statistics.median_low(sorted(known.values()))
    for node, value in known.items():
        off = value - middle
        if abs(off) > CLOCK_WARN:
            severity = fail if abs(off) > CLOCK_FAIL else warn
            what = f"its clock is {abs(off):.1f} s {'ahead of' if off > 0 else 'behind'} the others"
            sudo = "" if examined.system(node).root else "sudo "
            yield severity(node, what, f"there: {sudo}chronyc makestep, or {sudo}timedatectl set-ntp true")


def identities(examined: Examined) -> Iterator[Finding]:
    """Each host is a machine of its own, with a name of its own (NCCL tells nodes by host name and boot id)."""
    if examined.one_machine:
        return
    machines: dict[tuple[str, str], list[str]] = {}
    names: dict[str, list[str]] = {}
    for host in examined.hosts:
        system = examined.system(host.name)
        if system.boot_id:
            # Containers share a kernel, and so its boot id; with a network of their own they are machines of
            # their own.
            machines.setdefault((system.boot_id, system.network), []).append(host.name)
        names.setdefault(examined.facts[host.name].hostname, []).append(host.name)
    doubled = [nodes for nodes in machines.values() if len(nodes) > 1]
    for nodes in doubled:
        what = "are one machine: two torchruns would fight for its lock and its GPUs"
        yield Finding(tuple(nodes), "fail", what, "take all but one of them out of the inventory")
    for name, nodes in names.items():
        if len(nodes) > 1 and nodes not in doubled:
            what = f"call themselves {name!r}, all of them: NCCL takes nodes of one name for one"
            yield Finding(tuple(nodes), "warn", what, "there: sudo hostnamectl set-hostname NAME")


def families(examined: Examined) -> Iterator[Finding]:
    """All nodes have IPv4, or none has: torch and NCCL choose one family each by themselves."""
    lacking = []
    for host in examined.hosts:
        own = [entry.address for entry in examined.facts[host.name].addresses]
        if not any(":" not in address and not address.startswith("127.") for address in own):
            lacking.append(host.name)
    if lacking and len(lacking) < len(examined.hosts) and not examined.one_machine:
        what = "has no IPv4 address, others have one: the two sides of a connection may not meet"
        for name in lacking:
            yield warn(name, what, "give it one, or set NCCL_SOCKET_FAMILY=AF_INET6 and fabric_address: on all")


def addresses(examined: Examined) -> Iterator[Finding]:
    """An address that stands on several nodes leads each of them to itself."""
    holders: dict[tuple[str, str], list[str]] = {}
    for host in examined.hosts:
        for entry in examined.facts[host.name].addresses:
            if not entry.address.startswith("127.") and entry.address != "::1":
                holders.setdefault((entry.interface, entry.address), []).append(host.name)
    for (name, address), nodes in holders.items():
        if len(nodes) > 1 and not examined.one_machine:
            what = f"all have {address} on {name}, which leads each of them to itself"
            remedy = "nothing to do: orch leaves it out; other launchers need GLOO_SOCKET_IFNAME"
            yield Finding(tuple(nodes), "warn", what, remedy)


def load(examined: Examined) -> Iterator[Finding]:
    """No node has much more to do already than the others."""
    loads = {}
    for host in examined.hosts:
        known = examined.parts(host.name).memory
        if known is not None:
            loads[host.name] = known.load / max(1, known.cores)
    if len(loads) < 2:
        return
    median = statistics.median(loads.values())
    for node, value in loads.items():
        if value > BUSY_LOAD and value > 3 * median + 1:
            yield warn(node, f"{value:.1f} processes wait for each of its cores", "see what runs there: top")


def trees(examined: Examined) -> Iterator[Finding]:
    """The project's code that was synced last is the same everywhere."""
    kept = {host.name: examined.parts(host.name).kept for host in examined.hosts}
    values = {node: known.newest for node, known in kept.items() if known is not None}
    if any(values.values()):
        yield from _differing(
            examined,
            {node: value or "none" for node, value in values.items()},
            lambda node, mine, most: (
                f"was synced tree {mine[:8]} of this project last, most were {most[:8]}",
                "orch sync; orch run does it by itself",
            ),
            "warn",
        )


def shared_homes(examined: Examined) -> Iterator[Finding]:
    """A home on the network is shared: orch keeps its state in it by host name, and its lock not at all."""
    homes = {host.name: examined.parts(host.name).home for host in examined.hosts}
    kinds = {node: home.kind if home is not None else "" for node, home in homes.items()}
    shared = tuple(
        node for node, kind in kinds.items() if kind.startswith(("nfs", "cifs", "lustre", "beegfs", "gpfs"))
    )
    if len(shared) > len(kinds) / 2:
        for node in [name for name in kinds if name not in shared]:
            what = f"its home is on {kinds[node]}, on most nodes it is on {kinds[shared[0]]}: is it not mounted?"
            yield warn(node, what, "there: mount -a, and see why it failed")
    disks = {node: (examined.parts(node).disks or {}).get("workdir") for node in shared}
    slow = tuple(node for node, disk in disks.items() if disk is not None and disk.kind == kinds[node])
    if slow:
        what = f"workdir is on a network file system ({kinds[slow[0]]}): every rank reads and writes through it"
        yield Finding(slow, "warn", what, "set workdir: to a local disk")
