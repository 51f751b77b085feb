"""Checks of GPUs and of the adapters between nodes."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.core.checks.findings import Examined, Finding, fail, usual, warn

# Xids that an application's own error causes; the GPU is well (NVIDIA's XID catalogue).
OF_APPLICATIONS = (13, 31, 43, 45, 68, 69)
# Those after which a GPU does not work, or not reliably, until it is reset or replaced.
FATAL = (48, 64, 74, 79, 95, 119, 120, 140)
# nvidia-smi topo -p2p's words for pairs that never can: nothing is wrong with them.
NEVER_PEERS = ("NS", "GNS")


def gpus(examined: Examined) -> Iterator[Finding]:
    """The GPUs that are expected are there and well."""
    for host in examined.hosts:
        found = examined.facts[host.name].gpus
        if host.gpus is not None and found < host.gpus:
            what = f"{found} of the {host.gpus} GPUs in the inventory are visible"
            yield fail(host.name, what, "look at nvidia-smi -L and CUDA_VISIBLE_DEVICES there, or correct gpus:")
        elif examined.backend == "nccl" and not found:
            yield fail(host.name, "--backend nccl needs GPUs, and it has none", "use --backend gloo")
        torch = examined.parts(host.name).torch
        backends = torch.backends if torch is not None else ()
        if backends and examined.backend != "auto" and examined.backend not in backends:
            what = f"its torch has no backend {examined.backend}, only {', '.join(backends) or 'none'}"
            yield fail(host.name, what, f"use --backend {next(iter(backends), 'gloo')}, or install another torch")
        users = [f"pid {pid} ({program})" for pid, program, _ in examined.parts(host.name).gpu_users or []]
        for gpu in examined.parts(host.name).gpus or []:
            yield from _gpu(host.name, gpu, users)


def _gpu(node: str, gpu: dict[str, str], users: list[str]) -> Iterator[Finding]:
    name = f"GPU {gpu['index']} ({gpu['name']})"
    used, total = (
        float(gpu[key]) if gpu[key].replace(".", "").isdigit() else 0.0 for key in ("memory.used", "memory.total")
    )
    if total and used > 0.5 * total:
        what = f"{name} has {used / 1024:.0f} of {total / 1024:.0f} GiB in use already"
        holders = f", held by {', '.join(users[:4])}" if users else ", by no process that nvidia-smi knows"
        yield warn(node, what + holders, "end what holds it; orch ps shows leftovers of runs")
    errors = gpu["ecc.errors.uncorrected.volatile.total"]
    if errors.isdigit() and int(errors):
        yield fail(node, f"{name} has {errors} uncorrected memory errors", "reset or replace it: nvidia-smi -r")
    temperature = gpu["temperature.gpu"]
    if temperature.isdigit() and int(temperature) >= 87:
        yield warn(node, f"{name} is at {temperature} °C and will be slowed down", "look at its cooling")
    if gpu["clocks_throttle_reasons.hw_slowdown"] == "Active":
        yield warn(node, f"{name} is being slowed down by its hardware", "look at its power and its cooling")
    if gpu["persistence_mode"] == "Disabled":
        what = f"{name} is not in persistence mode: its driver is loaded anew for every process"
        yield warn(node, what, "sudo nvidia-smi -pm 1 there")
    if gpu["compute_mode"] == "Prohibited":
        yield fail(node, f"{name} allows no computing (compute mode Prohibited)", "sudo nvidia-smi -c 0 there")


def torch_sees(examined: Examined) -> Iterator[Finding]:
    """torch can use every GPU that is there."""
    for host in examined.hosts:
        answer = examined.parts(host.name).torch
        there = examined.facts[host.name].gpus
        if not there or answer is None or answer.devices >= there:
            continue
        python = examined.facts[host.name].python.path
        if answer.cuda is None:
            what = f"its torch was built without CUDA and cannot use its {there} GPUs"
            yield fail(host.name, what, f"there: {python} -m pip install --force-reinstall torch, a CUDA build")
            continue
        devices = examined.parts(host.name).gpus or ()
        driver = f" {devices[0]['driver_version']}" if devices else ""
        what = f"torch (CUDA {answer.cuda}) can use {answer.devices} of its {there} GPUs"
        remedy = f"is driver{driver} new enough for that CUDA? with NVSwitch: start nvidia-fabricmanager"
        yield fail(host.name, what, remedy)


def peers(examined: Examined) -> Iterator[Finding]:
    """GPUs of one node read each other's memory directly, where they can at all."""
    for host in examined.hosts:
        apart = [each for each in examined.parts(host.name).gpu_peers or [] if each[2] not in NEVER_PEERS]
        if apart:
            i, j, word = apart[0]
            more = f" and {len(apart) - 1} more pairs" if len(apart) > 1 else ""
            what = f"GPU {i} and GPU {j}{more} have no peer access ({word}): NCCL goes through the host"
            remedy = "switch ACS off, boot with iommu=pt; if NCCL hangs: --env NCCL_P2P_DISABLE=1"
            yield warn(host.name, what, remedy)


def errors(examined: Examined) -> Iterator[Finding]:
    """The driver has logged no error of the hardware since the node started."""
    for host in examined.hosts:
        for bus, number, text in examined.parts(host.name).gpu_errors or []:
            if number in OF_APPLICATIONS:
                continue
            said = text.rstrip(".").split(", ")[-1]
            severity = fail if number in FATAL else warn
            what = f"the GPU at {bus} has logged Xid {number} since the last start{': ' + said if said else ''}"
            yield severity(
                host.name, what, "reset it (nvidia-smi -r) or reboot; if it comes again, leave the node out"
            )


def adapters(examined: Examined) -> Iterator[Finding]:
    """InfiniBand and RoCE ports are up, and of one kind on all nodes: mixed ones hang (nccl#2428)."""
    kinds = {}
    for host in examined.hosts:
        ports = examined.parts(host.name).rdma
        if ports is None:
            continue
        kinds[host.name] = ", ".join(sorted({f"{port.link} {port.rate}" for port in ports.values()})) or "none"
        down = [name for name, port in ports.items() if port.state not in ("ACTIVE", "")]
        if down and len(down) < len(ports):
            what = f"of its RDMA ports {', '.join(down)} {'is' if len(down) == 1 else 'are'} not active"
            yield warn(host.name, what, "look at its cable and at the subnet manager: ibstat")
    most = usual(kinds)
    for node, kind in kinds.items():
        if kind != most:
            what = f"has RDMA adapters {kind}, most have {most}"
            yield warn(node, what, "name the ones to use with --env NCCL_IB_HCA=..., or NCCL_IB_DISABLE=1 for all")
