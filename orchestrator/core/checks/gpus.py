"""Checks of GPUs and of RDMA adapters."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.core.checks.findings import Examined, Finding, fail, most_common, warn

# Xids that an error of the application causes on a healthy GPU (NVIDIA's XID catalogue).
OF_APPLICATIONS = (13, 31, 43, 45, 68, 69)
# Xids after which a GPU works unreliably or not at all until it is reset or replaced.
FATAL = (48, 64, 74, 79, 95, 119, 120, 140)
# Words of nvidia-smi topo -p2p for pairs that do not support peer access. Such a pair is no fault.
NEVER_PEERS = ("NS", "GNS")


def gpus(examined: Examined) -> Iterator[Finding]:
    """Check that the expected GPUs are visible and healthy, and that torch has the backend."""
    for host in examined.hosts:
        found = examined.facts[host.name].gpus
        if host.gpus is not None and found < host.gpus:
            what = f"{found} of the {host.gpus} GPUs in the inventory are visible"
            yield fail(host.name, what, "check nvidia-smi -L and CUDA_VISIBLE_DEVICES there, or correct gpus:")
        elif examined.backend == "nccl" and not found:
            yield fail(host.name, "--backend nccl needs GPUs, but none is visible", "use --backend gloo")
        torch = examined.parts(host.name).torch
        backends = torch.backends if torch is not None else ()
        if backends and examined.backend != "auto" and examined.backend not in backends:
            what = f"torch has no backend {examined.backend}, only {', '.join(backends) or 'none'}"
            yield fail(
                host.name,
                what,
                f"use --backend {next(iter(backends), 'gloo')}, or install a torch that has the backend",
            )
        users = [f"pid {pid} ({program})" for pid, program, _ in examined.parts(host.name).gpu_users or []]
        for gpu in examined.parts(host.name).gpus or []:
            yield from _gpu(host.name, gpu, users)


def _gpu(node: str, gpu: dict[str, str], users: list[str]) -> Iterator[Finding]:
    name = f"GPU {gpu['index']} ({gpu['name']})"
    used, total = (
        float(gpu[key]) if gpu[key].replace(".", "").isdigit() else 0.0 for key in ("memory.used", "memory.total")
    )
    if total and used > 0.5 * total:
        what = f"{name} already has {used / 1024:.0f} of {total / 1024:.0f} GiB in use"
        holders = f", held by {', '.join(users[:4])}" if users else ", held by no process that nvidia-smi lists"
        yield warn(node, what + holders, "end the processes that hold it; orch ps shows leftovers of runs")
    errors = gpu["ecc.errors.uncorrected.volatile.total"]
    if errors.isdigit() and int(errors):
        yield fail(
            node,
            f"{name} reports uncorrected memory errors: {errors}",
            "reset the GPU (nvidia-smi -r) or replace it",
        )
    temperature = gpu["temperature.gpu"]
    if temperature.isdigit() and int(temperature) >= 87:
        yield warn(node, f"{name} is at {temperature} °C and will be slowed down", "check the cooling")
    if gpu["clocks_throttle_reasons.hw_slowdown"] == "Active":
        yield warn(node, f"{name} is being slowed down by its hardware", "check the power supply and the cooling")
    if gpu["persistence_mode"] == "Disabled":
        what = f"{name} is not in persistence mode: the driver is loaded again for every process"
        yield warn(node, what, "run there: sudo nvidia-smi -pm 1")
    if gpu["compute_mode"] == "Prohibited":
        yield fail(
            node, f"{name} allows no computing (compute mode Prohibited)", "run there: sudo nvidia-smi -c 0"
        )


def torch_sees(examined: Examined) -> Iterator[Finding]:
    """Check that torch can use every visible GPU."""
    for host in examined.hosts:
        answer = examined.parts(host.name).torch
        there = examined.facts[host.name].gpus
        if not there or answer is None or answer.devices >= there:
            continue
        python = examined.facts[host.name].python.path
        if answer.cuda is None:
            what = f"torch was built without CUDA and cannot use the {there} GPUs"
            yield fail(
                host.name, what, f"install a CUDA build there: {python} -m pip install --force-reinstall torch"
            )
            continue
        devices = examined.parts(host.name).gpus or ()
        driver = f" {devices[0]['driver_version']}" if devices else ""
        what = f"torch (CUDA {answer.cuda}) can use {answer.devices} of the {there} GPUs"
        remedy = (
            f"check that driver{driver} is new enough for that CUDA; with NVSwitch, start nvidia-fabricmanager"
        )
        yield fail(host.name, what, remedy)


def peer_access(examined: Examined) -> Iterator[Finding]:
    """Check that those GPUs of a node that support peer access have it."""
    for host in examined.hosts:
        apart = [each for each in examined.parts(host.name).gpu_peers or [] if each[2] not in NEVER_PEERS]
        if apart:
            i, j, word = apart[0]
            more = f" (and {len(apart) - 1} more)" if len(apart) > 1 else ""
            what = f"the pair GPU {i}, GPU {j}{more} has no peer access ({word}): NCCL goes through host memory"
            remedy = "switch ACS off and boot with iommu=pt; if NCCL hangs, pass --env NCCL_P2P_DISABLE=1"
            yield warn(host.name, what, remedy)


def hardware_errors(examined: Examined) -> Iterator[Finding]:
    """Check that the driver has logged no hardware error since the node was booted."""
    for host in examined.hosts:
        for bus, number, text in examined.parts(host.name).gpu_errors or []:
            if number in OF_APPLICATIONS:
                continue
            said = text.rstrip(".").split(", ")[-1]
            severity = fail if number in FATAL else warn
            what = f"the GPU at {bus} has logged Xid {number} since the last boot{': ' + said if said else ''}"
            yield severity(
                host.name, what, "reset the GPU (nvidia-smi -r) or reboot; leave the node out if the error returns"
            )


def adapters(examined: Examined) -> Iterator[Finding]:
    """Check that InfiniBand and RoCE ports are up and of one kind on all nodes: mixed kinds hang (nccl#2428)."""
    kinds = {}
    for host in examined.hosts:
        ports = examined.parts(host.name).rdma
        if ports is None:
            continue
        kinds[host.name] = ", ".join(sorted({f"{port.link} {port.rate}" for port in ports.values()})) or "none"
        down = [name for name, port in ports.items() if port.state not in ("ACTIVE", "")]
        if down and len(down) < len(ports):
            what = f"of the RDMA ports, {', '.join(down)} {'is' if len(down) == 1 else 'are'} not active"
            yield warn(host.name, what, "check the cable and the subnet manager: ibstat")
    most = most_common(kinds)
    for node, kind in kinds.items():
        if kind != most:
            what = f"the RDMA adapters differ: {kind}; on most hosts {most}"
            yield warn(
                node,
                what,
                "name the adapters to use (--env NCCL_IB_HCA=...), or use none (--env NCCL_IB_DISABLE=1)",
            )
