"""Doctor's checks on facts recorded from planted faults and on edited facts, and the pages made from them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from docs import make
from docs.examples import GPU, healthy, with_part
from orchestrator.core.checks.catalogue import CHECKS, check
from orchestrator.core.checks.facts import Address
from orchestrator.core.checks.findings import UNKNOWN_SYSTEM, Examined, Finding, merged
from orchestrator.core.checks.pairs import culprits
from orchestrator.core.checks.remedies import let_in
from orchestrator.core.checks.report import as_json, from_json
from orchestrator.protocol.facts import Interpreter
from orchestrator.ui.html import as_html
from tests.conftest import ROOT

RECORDED = sorted((ROOT / "tests" / "recorded" / "doctor").glob("*.json"))


def recorded(name: str) -> Examined:
    return from_json((ROOT / "tests" / "recorded" / "doctor" / f"{name}.json").read_text())


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_recorded_facts_give_the_same_findings(file: Path) -> None:
    text = file.read_text()
    findings = check(from_json(text))
    assert json.loads(json.dumps([each.as_fields() for each in findings])) == json.loads(text)["findings"]
    again = from_json(as_json(from_json(text), findings, []))
    assert check(again) == findings


def test_a_master_port_that_lost_packets_missed_is_not_a_firewall() -> None:
    seen = recorded("30-packet-loss")
    probes = {a: dict(row) for a, row in seen.probes.items()}
    probes["node2"]["node1"] = probes["node2"]["node1"].replace(master="timeout")
    assert check(replace(seen, probes=probes)) == check(seen)


def test_nothing_is_said_of_healthy_hosts() -> None:
    assert check(healthy()) == ()


@pytest.mark.parametrize(
    ("changes", "severity", "what"),
    [
        ({"memory.used": "60000"}, "warn", "59 of 80 GiB in use"),
        ({"ecc.errors.uncorrected.volatile.total": "3"}, "fail", "uncorrected memory errors: 3"),
        ({"temperature.gpu": "91"}, "warn", "91 °C"),
        ({"clocks_throttle_reasons.hw_slowdown": "Active"}, "warn", "slowed down by its hardware"),
        ({"compute_mode": "Prohibited"}, "fail", "allows no computing"),
        ({"persistence_mode": "Disabled"}, "warn", "not in persistence mode"),
    ],
)
def test_a_sick_gpu(changes: dict[str, str], severity: str, what: str) -> None:
    seen = healthy()
    for node in seen.facts:
        seen = with_part(seen, node, "gpus", [GPU])
    seen = with_part(seen, "node2", "gpus", [{**GPU, **changes}])
    (found,) = check(seen)
    assert (found.nodes, found.severity) == (("node2",), severity) and what in found.what


def test_other_gpus_and_drivers_are_named() -> None:
    seen = healthy()
    for node in seen.facts:
        seen = with_part(seen, node, "gpus", [GPU])
    seen = with_part(seen, "node3", "gpus", [{**GPU, "driver_version": "535.2", "name": "NVIDIA A100"}])
    assert [found.what for found in check(seen)] == [
        "the GPU driver is 535.2; most hosts have 570.1",
        "the GPU model is NVIDIA A100; most hosts have NVIDIA H100",
    ]


def test_who_holds_a_gpus_memory() -> None:
    seen = with_part(healthy(), "node2", "gpu_users", [[812, "python", "70000"]])
    (found,) = check(with_part(seen, "node2", "gpus", [{**GPU, "memory.used": "70000"}]))
    assert "held by pid 812 (python)" in found.what


def test_a_backend_that_torch_lacks() -> None:
    (found,) = {each.what for each in check(replace(healthy(), backend="mpi"))}
    assert found == "torch has no backend mpi, only gloo"


def test_a_master_port_that_the_kernel_gives_away() -> None:
    seen = healthy()
    limits = {**seen.facts["node1"].parts.to_wire()["limits"], "ephemeral_ports": [32768, 60999]}
    (found,) = check(replace(with_part(seen, "node1", "limits", limits), port=40000))
    assert found.nodes == ("node1",) and "(32768 to 60999)" in found.what


def test_a_node_without_ipv4() -> None:
    seen = healthy()
    facts = dict(seen.facts)
    facts["node3"] = replace(facts["node3"], addresses=(Address("eth0", "fd00::3", 64),))
    (found,) = check(replace(seen, facts=facts))
    assert found.nodes == ("node3",) and "IPv4 is missing" in found.what


def test_infiniband_needs_locked_memory() -> None:
    card = {"ib0": {"up": True, "speed": 200000, "mtu": 2044, "kind": "infiniband"}}
    seen = with_part(healthy(), "node2", "interfaces", card)
    limits = {"open_files": [65536, 65536], "processes": [None, None], "locked_memory": [8388608, 8388608]}
    (found,) = check(with_part(seen, "node2", "limits", limits))
    assert found.nodes == ("node2",) and "InfiniBand needs locked memory" in found.what


def test_a_container_with_little_memory() -> None:
    seen = healthy()
    memory = {**seen.facts["node2"].parts.to_wire()["memory"], "limit": 2 << 30}
    (found,) = check(with_part(seen, "node2", "memory", memory))
    assert found.what == "the container or slice is limited to 2.0 GiB of memory"


@pytest.mark.parametrize(
    ("what", "free", "severity"),
    [
        ("workdir", 50 << 20, "fail"),
        ("workdir", 500 << 20, "warn"),
        ("home", 8 << 20, "fail"),
        ("/tmp", 1 << 20, "warn"),
    ],
)
def test_how_much_room_is_too_little(what: str, free: int, severity: str) -> None:
    seen = healthy()
    disks = seen.facts["node2"].parts.to_wire()["disks"]
    (found,) = check(with_part(seen, "node2", "disks", {**disks, what: {**disks[what], "free": free}}))
    assert (found.nodes, found.severity) == (("node2",), severity)


HDR = {"state": "ACTIVE", "rate": "200 Gb/sec (4X HDR)", "link": "InfiniBand"}


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        (
            "rdma",
            {"mlx5_0/1": {**HDR, "rate": "100 Gb/sec (4X EDR)"}},
            "the RDMA adapters differ: InfiniBand 100 Gb/sec",
        ),
        ("rdma", {"mlx5_0/1": HDR, "mlx5_1/1": {**HDR, "state": "DOWN"}}, "RDMA ports, mlx5_1/1 is not active"),
        (
            "gpu_peers",
            [[0, 1, "NS"], [0, 2, "CNS"], [1, 2, "CNS"]],
            "GPU 0, GPU 2 (and 1 more) has no peer",
        ),
        ("gpu_errors", [["0000:3b:00", 31, "MMU Fault"], ["0000:3b:00", 63, "Row Remapper"]], "Xid 63"),
        ("timekeeping", {"synchronised": False}, "the clock is not synchronised by NTP"),
        ("logout", {"kills": True}, "ends a session's processes at logout"),
        ("locks", [["/cache/a b/lock", 4000.0]], "/cache/a b/lock is the lock of a build that began 67 min ago"),
        (
            "kept",
            {"path": "/w", "trees": 3, "runs": 301, "newest": "ab" * 16},
            "/w holds 3 trees and 301 working folders",
        ),
        (
            "kept",
            {"path": "/w", "trees": 3, "runs": 1, "newest": None},
            "the last synced tree of this project is none",
        ),
        ("home", {"path": "/root", "kind": "ext4", "host": "node2"}, "on most hosts on nfs4"),
        (
            "names",
            {"gpu1": ["10.0.0.1"], "node3": []},
            "node3 does not resolve; on most hosts it resolves to 10.0.0.3",
        ),
    ],
)
def test_what_one_node_says(part: str, value: object, said: str) -> None:
    seen = healthy()
    usual = {
        "kept": {"path": "/w", "trees": 3, "runs": 1, "newest": "ab" * 16},
        "home": {"path": "/root", "kind": "nfs4", "host": "node1"},
        "rdma": {"mlx5_0/1": HDR},
        "timekeeping": {"synchronised": True},
        "names": {"node3": ["10.0.0.3"], "gpu1": ["10.0.0.1"]},
    }
    for node in seen.facts:
        seen = with_part(seen, node, part, usual.get(part))
    assert check(seen) == ()
    (found,) = check(with_part(seen, "node2", part, value))
    assert found.nodes == ("node2",) and said in found.what


def test_nothing_is_said_of_clocks_that_nothing_keeps_anywhere() -> None:
    seen = healthy()
    for node in seen.facts:
        seen = with_part(seen, node, "timekeeping", {"synchronised": False})
    assert check(seen) == ()


def test_torch_that_cannot_use_its_gpus() -> None:
    seen = with_part(healthy(), "node2", "gpus", [GPU])
    facts = {**seen.facts, "node2": replace(seen.facts["node2"], gpus=1)}
    torch = {"cuda": "13.0", "devices": 0, "backends": ["gloo", "nccl"]}
    found = check(with_part(replace(seen, facts=facts), "node2", "torch", torch))
    assert "torch (CUDA 13.0) can use 0 of the 1 GPUs" in [each.what for each in found]
    assert found[0].remedy.startswith("check that driver 570.1 is new enough")


def test_memory_that_is_swapped_out() -> None:
    seen = healthy()
    memory = {**seen.facts["node2"].parts.to_wire()["memory"], "swap": 8 << 30, "swap_free": 1 << 30}
    (found,) = check(with_part(seen, "node2", "memory", {**memory, "total": 16 << 30}))
    assert found.what.startswith("7.0 GiB of memory are swapped out")


def test_a_kernel_that_pytorch_hangs_on() -> None:
    seen = healthy()
    system = {**seen.facts["node3"].parts.to_wire()["system"], "kernel": "5.4.0-150-generic"}
    (found,) = check(with_part(seen, "node3", "system", system))
    assert found.nodes == ("node3",) and "before 5.5" in found.what


def test_requirements_are_compared_as_pip_would() -> None:
    lines = ("-r other.txt", "torch>=3", "numpy ; python_version < '3'", "torchvision", "./wheels/x.whl", "# end")
    assert [(found.nodes, found.what) for found in check(replace(healthy(), requirements=lines))] == [
        ((node,), "requirements.txt is not satisfied: torch>=3 (2.15.0)") for node in ("node1", "node2", "node3")
    ]


def test_a_stream_that_starves_on_a_narrow_link_is_no_black_hole() -> None:
    seen = recorded("slow-link")
    probes = {a: dict(row) for a, row in seen.probes.items()}
    probes["node2"]["node3"] = probes["node2"]["node3"].replace(bulk=(0, 2.5))
    (found,) = check(replace(seen, probes=probes))
    assert (found.nodes, found.check) == (("node2",), "throughput")


def test_processors_that_differ() -> None:
    seen = healthy()
    system = {**seen.facts["node3"].parts.to_wire()["system"], "machine": "aarch64"}
    (found,) = check(with_part(seen, "node3", "system", system))
    assert (found.severity, found.nodes) == (
        "fail",
        ("node3",),
    ) and "aarch64; most hosts have x86_64" in found.what


def test_quick_checks_are_those_of_orch_run_and_no_others() -> None:
    seen = replace(
        healthy(),
        pings={"node1": {"loss": 0.5, "rtt": 0.001}},
        facts={
            name: replace(known, python=Interpreter(path="/x", error="no such program"))
            for name, known in healthy().facts.items()
        },
    )
    quick = check(seen, quick=True)
    everything = check(seen)
    names = {each.name for each in CHECKS if each.quick}
    assert list(quick) == [found for found in everything if found.check in names]
    assert {found.check for found in everything} - {found.check for found in quick} == {"ping"}
    (line,) = merged(quick)
    assert str(line).startswith("node1, node2, node3: interpreter '/x' cannot be used: no such program → ")


@pytest.mark.parametrize(
    ("bad", "nodes", "pairs"),
    [
        ({("a", "b"), ("b", "a"), ("c", "b")}, ["b"], []),
        ({("a", "b")}, [], [("a", "b")]),
        ({("a", "b"), ("b", "c"), ("a", "c")}, [], [("a", "b"), ("a", "c"), ("b", "c")]),
    ],
)
def test_who_is_to_blame(bad: set[tuple[str, str]], nodes: list[str], pairs: list[tuple[str, str]]) -> None:
    probes: dict[tuple[str, str], dict[str, object]] = {(x, y): {} for x in "abc" for y in "abc" if x != y}
    assert culprits(bad, probes) == (nodes, pairs)


def test_remedies_are_spelled_as_the_system_does() -> None:
    assert let_in(UNKNOWN_SYSTEM.replace(firewall="ufw"), ["10.0.0.2", "10.0.0.1"]) == (
        "open the receiving host's firewall: sudo ufw allow from 10.0.0.1 && sudo ufw allow from 10.0.0.2"
    )
    assert "firewall-cmd --permanent --zone=trusted --add-source=10.0.0.1" in let_in(
        UNKNOWN_SYSTEM.replace(firewall="firewall-cmd", root=True), ["10.0.0.1"]
    )


def test_the_page_has_both_maps_and_escapes_what_hosts_say() -> None:
    seen = healthy()
    page = as_html(seen, [Finding(("<b>",), "fail", "a & b", "x")], [])
    assert "&lt;b&gt;" in page and "a &amp; b" in page
    assert page.count("<table class=map>") == 2 and page.count('<td style="background') == 12


def test_the_pages_made_from_the_code_are_up_to_date() -> None:
    for page, text in make.pages().items():
        assert page.read_text().partition(make.MARK)[2] == text, "run python -m docs.make"


def test_every_check_has_an_example() -> None:
    assert {each.name for each in CHECKS} == set(make.seen())
