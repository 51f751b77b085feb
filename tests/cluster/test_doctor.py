"""Doctor on a cluster with planted faults, one at a time: each is found, and only its host or pair is blamed."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.inventory.edit import set_host_value
from orchestrator.errors import UsageError
from tests import standin
from tests.conftest import ROOT, Orch
from tests.namespaces import Cluster, require
from tests.namespaces.files import NODE_HOME
from tests.planted import FAULTS, Fault, FaultyCluster, leftover, loopback_name, twins

pytestmark = pytest.mark.cluster

# What doctor saw of each planted fault; ORCH_RECORD=1 writes them anew.
RECORDED = Path(__file__).parent.parent / "recorded" / "doctor"
HANGS = "#!/bin/sh\nexec sleep 1000\n"
FLOODS = "#!/bin/sh\nexec head -c 100000000 /dev/zero\n"
RUBBISH = "#!/bin/sh\nhead -c 300 /dev/urandom\n"


@pytest.fixture(scope="module")
def sick() -> Iterator[Cluster]:
    """Three hosts with a light stand-in for torch."""
    require()
    with Cluster(3, python=sys.executable, visible=[ROOT]) as made:
        for host in made.hosts:
            standin.install(host)
        yield made


@pytest.fixture
def patient(sick: Cluster) -> Iterator[FaultyCluster]:
    """The cluster to plant a fault on."""
    with contextlib.ExitStack() as undo:
        yield FaultyCluster(sick, undo)


def examined(p: FaultyCluster, folder: Path) -> tuple[int, dict[str, Any], float, str]:
    """Return doctor's exit code, its JSON, the seconds it took, and its stderr."""
    (folder / "hosts.yaml").write_text(
        p.cluster.hosts_yaml(per_host=p.per_host, defaults={"python": standin.PYTHON})
    )
    for name, text in p.project.items():
        (folder / name).write_text(text)
    orch = Orch(folder, {**p.cluster.control_env(), "PYTHONPATH": str(ROOT)})
    began = time.monotonic()
    done = orch("doctor", "--json", *p.words)
    return done.returncode, json.loads(done.stdout or "{}"), time.monotonic() - began, done.stderr


def test_a_healthy_cluster_is_well(patient: FaultyCluster, tmp_path: Path) -> None:
    code, seen, _, err = examined(patient, tmp_path)
    assert (code, seen["findings"], seen["unreachable"]) == (0, [], {}), err
    assert sorted(seen["probes"]) == ["node1", "node2", "node3"]
    text = Orch(tmp_path, {**patient.cluster.control_env(), "PYTHONPATH": str(ROOT)})(
        "doctor", "--html", "page.html"
    )
    assert text.stdout.startswith("node[1-3]: ok  Debian")
    assert "all is well" in text.stdout
    page = (tmp_path / "page.html").read_text()
    assert page.count("<td style=") == 12 and "Nothing is wrong" in page


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_found(patient: FaultyCluster, tmp_path: Path, fault: Fault) -> None:
    fault.plant(patient)
    code, seen, seconds, err = examined(patient, tmp_path)
    if "ORCH_RECORD" in os.environ and seen["findings"]:
        RECORDED.mkdir(exist_ok=True)
        (RECORDED / f"{re.sub('[^a-z0-9]+', '-', fault.name.lower())}.json").write_text(json.dumps(seen) + "\n")
    said = [
        (
            found["severity"],
            (" -> " if found["pair"] else ",").join(found["nodes"]),
            found["what"],
            found["remedy"],
        )
        for found in seen["findings"]
    ]
    said += [("fail", host, text, text) for host, text in seen["unreachable"].items()]
    names = {"node[1-3]": "node1,node2,node3", "node[2-3]": "node2,node3"}
    blamed = names.get(fault.blamed, fault.blamed)
    assert [each[1] for each in said] == [blamed] * len(said) and said, (said, err)
    right = [
        each
        for each in said
        if each[0] == fault.severity and re.search(fault.what, each[2]) and re.search(fault.remedy, each[3])
    ]
    assert right, said
    assert code == fault.exit_code
    assert seconds < 30


@pytest.mark.parametrize("program", [HANGS, FLOODS, RUBBISH], ids=["hangs", "floods", "rubbish"])
def test_programs_that_misbehave_spoil_nothing_else(patient: FaultyCluster, tmp_path: Path, program: str) -> None:
    """Replace nvidia-smi on one host, the training interpreter on another, and orch's own python3 on a third."""
    usual = {"SetEnv": "PLANTED=no"}
    for node, name in (("node1", "nvidia-smi"), ("node2", "python"), ("node3", "python3")):
        patient.file(node, f"bad/{name}", program)
        if name != "python":
            patient.sshd(node, {"SetEnv": f"PATH={NODE_HOME}/bad:/usr/bin:/bin"}, usual)
    patient.per_host["node2"] = {"python": f"{NODE_HOME}/bad/python", "interface": "eth7"}
    code, seen, seconds, err = examined(patient, tmp_path)
    assert seconds < 30 and code == 3, err
    said = {(tuple(found["nodes"]), found["check"]) for found in seen["findings"]}
    assert said == {(("node1",), "parts"), (("node2",), "interpreter"), (("node2",), "interface")}, said
    # Without python3 nothing of orch runs on node3.
    assert list(seen["unreachable"]) == ["node3"]


def test_what_needs_no_root_is_mended(patient: FaultyCluster, tmp_path: Path) -> None:
    """Mends of a host key, leftovers, a folder and a wrong address: each is offered, made, and checked again."""
    patient.sshd("node3", {"SetEnv": f"TMPDIR={NODE_HOME}/tmp/mine"}, {"SetEnv": "PLANTED=no"})
    leftover(patient)
    patient.per_host["node3"] = {"fabric_address": "10.99.0.1"}
    text = patient.cluster.hosts_yaml(per_host=patient.per_host, defaults={"python": standin.PYTHON})
    (tmp_path / "hosts.yaml").write_text(text + "# a comment\n")
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    known = patient.cluster.known_hosts.read_text().splitlines()
    (home / ".ssh" / "known_hosts").write_text(
        "\n".join(line for line in known if patient["node1"].address not in line)
    )
    orch = Orch(tmp_path, {**patient.cluster.control_env(), "HOME": str(home), "PYTHONPATH": str(ROOT)})
    asked = orch("doctor", "--fix")
    assert asked.returncode == 130 and "record this key in ~/.ssh/known_hosts?" in asked.stderr
    done = orch("doctor", "--fix", "--yes")
    assert "SHA256:" in done.stderr and "4 mended" in done.stderr
    assert "set hosts.node3.fabric_address to" in done.stderr
    assert (patient["node3"].home / "tmp" / "mine").is_dir()
    assert done.returncode == 0 and "all is well" in done.stdout.splitlines()[-1], done.stdout + done.stderr
    changed = (tmp_path / "hosts.yaml").read_text()
    assert changed.endswith("# a comment\n") and f'"fabric_address": {patient["node3"].address}' in changed
    assert patient["node1"].address in (home / ".ssh" / "known_hosts").read_text()
    assert not [each for each in patient["node2"].processes() if "ORCH_RUN_ID" in each.environ]


@pytest.mark.torch
def test_a_run_sets_by_itself_what_it_can_survive(sick: Cluster, patient: FaultyCluster, tmp_path: Path) -> None:
    """With a name at 127.0.1.1 and one address on every host, the run chooses interface and address, and works."""
    loopback_name(patient)
    twins(patient)
    (tmp_path / "hosts.yaml").write_text(sick.hosts_yaml(defaults={"python": sys.executable}))
    done = Orch(tmp_path, {**sick.control_env(), "PYTHONPATH": str(ROOT)})("run", "message-passing")
    assert done.returncode == 0, done.stderr
    assert "[node3:2] Rank 2 on node3 received 42.0 from rank 0" in done.stdout
    assert "warn: node2: the host's own name 'node2' resolves to 127.0.1.1" in done.stderr


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("hosts:\n  a: {address: x}  # one\n", "hosts:\n  a: {interface: eth0, address: x}  # one\n"),
        (
            "hosts:\n  a:\n    # two\n    address: x\n",
            "hosts:\n  a:\n    # two\n    interface: eth0\n    address: x\n",
        ),
        ("hosts:\n  a: {interface: eth7, port: 22}\n", "hosts:\n  a: {interface: eth0, port: 22}\n"),
    ],
)
def test_one_value_of_a_hosts_file_is_changed_and_nothing_else(before: str, after: str) -> None:
    assert set_host_value(before, "a", "interface", "eth0") == after


def test_a_host_without_keys_of_its_own_is_not_changed() -> None:
    with pytest.raises(UsageError, match="no keys of its own"):
        set_host_value("hosts:\n  a[1-3]: {address: x}\n", "a1", "interface", "eth0")
