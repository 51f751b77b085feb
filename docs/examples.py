"""Example findings for checks that no recorded fault triggers: facts of healthy hosts with one value changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.core.checks.facts import Address
from orchestrator.core.checks.findings import Examined
from orchestrator.core.checks.report import from_json
from orchestrator.core.inventory.sections.container import Container
from orchestrator.protocol.container.image import EngineFacts
from orchestrator.protocol.facts import Parts

HEALTHY = Path(__file__).parent.parent / "tests" / "recorded" / "doctor" / "unknown-interface.json"
ADAPTER = {"state": "ACTIVE", "rate": "200 Gb/sec (4X HDR)", "link": "InfiniBand"}
GPU = {
    "index": "0",
    "name": "NVIDIA H100",
    "uuid": "GPU-1",
    "driver_version": "570.1",
    "memory.total": "81559",
    "memory.used": "4",
    "utilization.gpu": "0",
    "temperature.gpu": "35",
    "ecc.errors.uncorrected.volatile.total": "0",
    "persistence_mode": "Enabled",
    "compute_mode": "Default",
    "clocks_throttle_reasons.hw_slowdown": "Not Active",
}
NFS = {
    "path": "/home/u/orch-work",
    "free": 1 << 40,
    "size": 1 << 42,
    "inodes": None,
    "writable": True,
    "noexec": False,
    "kind": "nfs4",
}
KEPT = {"path": "/home/u/orch-work", "trees": 3, "runs": 12}
# The name of a part, its value on the other nodes, and its value on node2. None keeps the recorded value.
PARTS: tuple[tuple[str, Any, Any], ...] = (
    ("torch", None, {"error": "exit code 1: OSError: libcudnn.so.9: cannot open shared object file"}),
    ("kept", {**KEPT, "newest": "3f5a" * 8}, {**KEPT, "newest": "91c0" * 8}),
    ("logout", {"kills": False}, {"kills": True}),
    ("rdma", {"mlx5_0/1": ADAPTER}, {"mlx5_0/1": {**ADAPTER, "rate": "100 Gb/sec (4X EDR)"}}),
    ("memory", None, {"available": 300 << 20}),
    ("memory", None, {"load": 640.0, "cores": 16}),
    ("gpus", [GPU], [{**GPU, "driver_version": "535.2"}]),
    ("gpus", [], {"error": "no answer within 8 s"}),
    ("timekeeping", {"synchronised": True}, {"synchronised": False}),
    ("system", None, {"machine": "aarch64"}),
    ("interfaces", None, {"eth0": {"up": True, "speed": 10000, "mtu": 9000, "kind": "ethernet"}}),
)


def healthy() -> Examined:
    """Return three hosts with nothing wrong."""
    seen = from_json(HEALTHY.read_text())
    return replace(seen, hosts=tuple(replace(host, interface=None) for host in seen.hosts))


def with_part(seen: Examined, node: str, name: str, value: Any) -> Examined:
    """Return ``seen`` with one part of one node's facts replaced by ``value``."""
    facts = dict(seen.facts)
    parts = facts[node].parts
    others = {other: part for other, part in parts.to_wire().items() if other != name and part is not None}
    unanswered = {other: why for other, why in parts.unanswered.items() if other != name}
    known = Parts.from_wire({**others, name: value, "unanswered": unanswered})
    facts[node] = replace(facts[node], parts=known)
    return replace(seen, facts=facts)


def examples() -> Iterator[Examined]:
    """Yield one cluster for each example finding."""
    for name, others, mine in PARTS:
        seen = healthy()
        for node, known in seen.facts.items():
            value = mine if node == "node2" else others
            recorded = known.parts.to_wire()[name]
            if isinstance(value, dict) and "error" not in value and isinstance(recorded, dict):
                value = {**recorded, **value}
            if value is not None:
                seen = with_part(seen, node, name, value)
        yield seen
    seen = healthy()
    facts = {**seen.facts, "node3": replace(seen.facts["node3"], addresses=(Address("eth0", "fd00::3", 64),))}
    yield replace(seen, facts=facts)
    nfs = with_part(seen, "node2", "home", {**seen.facts["node2"].parts.to_wire()["home"], "kind": "nfs4"})
    yield with_part(nfs, "node2", "disks", {**seen.facts["node2"].parts.to_wire()["disks"], "workdir": NFS})
    yield _probed(seen, {"master": "timeout"}, into="node1")
    yield _probed(seen, {"rtt": 0.031}, into="node2")
    refused = "exit code 1: permission denied while trying to connect to the docker API at /var/run/docker.sock"
    for changed in (
        {"error": refused, "refused": True, "image_id": None},
        {"image_id": "sha256:91c0b7e1f2d4"},
        {"gpu": "nvidia", "gpu_runtime": False},
    ):
        yield with_engines(seen, node2=changed)


def with_engines(seen: Examined, image: str = "pytorch/pytorch:2.14.1", **changed: dict[str, Any]) -> Examined:
    """Return ``seen`` with docker and an image on every host. ``changed``: other values of a host's engine."""
    usual = EngineFacts(
        engine="docker", version="Docker version 27.3.1", image=image, image_id="sha256:3f5a19c20e8b"
    )
    engines = {name: usual.replace(**changed.get(name, {})) for name in seen.facts}
    hosts = tuple(replace(host, container=Container(image)) for host in seen.hosts)
    gpus = {name: 8 if engines[name].gpu else known.gpus for name, known in seen.facts.items()}
    facts = {name: replace(known, engine=engines[name], gpus=gpus[name]) for name, known in seen.facts.items()}
    return replace(seen, hosts=hosts, facts=facts)


def _probed(seen: Examined, changed: dict[str, Any], *, into: str) -> Examined:
    probes = {
        node: {
            other: found.replace(**changed) if into == other or ("rtt" in changed and into == node) else found
            for other, found in others.items()
        }
        for node, others in seen.probes.items()
    }
    return replace(seen, probes=probes)
