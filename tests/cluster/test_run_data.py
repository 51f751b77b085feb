"""``orch run`` brings the nodes the data that the inventory and the script name, once."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from orchestrator.core.inventory.target import Settings, Target
from orchestrator.core.launch.plan import RunSpec
from orchestrator.operations.cluster import open_cluster
from orchestrator.operations.delivery.run_data import lacking
from orchestrator.operations.run.launching import prepare
from orchestrator.operations.run.options import RunOptions
from orchestrator.operations.run.source import resolve
from orchestrator.ui.quiet import QuietDisplay
from tests.conftest import Orch
from tests.namespaces import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.torch]

SCRIPT = """
import os
NEEDS_DATA = [{"data": "needed", "unless": ["--without"]}, {"file": "--csv"}]
for name in ("needed/one", "given/one", "x.csv"):
    print(name, "is", open(os.path.join(os.environ["ORCH_DATA"], name)).read())
"""


def without(orch: Orch, *args: str) -> list[tuple[int, list[str]]]:
    """Return what a run would have to send: the position of the data, and the nodes that lack them."""
    source = resolve("script.py")
    options = RunOptions(RunSpec(source.workload, args), source, orch.folder / "runs")
    with open_cluster(Target(orch.folder / "hosts.yaml", None, Settings(), 8), interpreters=True) as opened:
        made = prepare(opened, options, QuietDisplay())
        absent = lacking(made.data, made.lineup.nodes, made.facts)
    return [(at, [node.name for node in nodes]) for at, nodes in absent]


def test_a_run_sends_each_node_the_data_that_it_lacks(
    orch: Orch, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    (orch.folder / ".orchignore").write_text("*\n!script.py\n")
    (orch.folder / "script.py").write_text(SCRIPT)
    (orch.folder / "x.csv").write_text("a,b")
    for name in ("needed", "given"):
        (orch.folder / name).mkdir()
        (orch.folder / name / "one").write_text(f"the {name} one")
    (orch.folder / "hosts.yaml").write_text(cluster.hosts_yaml(data=["given"]))
    held = {host.name: host.home / "orch-work" / "data" for host in cluster.hosts}
    try:
        assert orch("sync").returncode == 0
        shutil.rmtree(held["node2"] / "given")
        refused = orch("run", "script.py", "--", "--csv", "x.csv")
        assert refused.returncode == 3
        assert refused.stderr.splitlines()[-1] == (
            "error: script.py needs needed, which node1, node2, node3 lack → pass --yes to send 14 bytes, passed on "
            "from host to host, or run orch sync --data needed before, or give script.py --without"
        )
        refused = orch("run", "--yes", "--no-sync", "script.py")
        assert refused.returncode == 5 and "node2: lacks given → run orch sync, or leave out" in refused.stderr
        assert not any((folder / "needed").exists() for folder in held.values())
        done = orch("run", "--yes", "script.py", "--", "--csv", "x.csv")
        assert done.returncode == 0, done.stdout + done.stderr
        for line in ("needed/one is the needed one", "given/one is the given one", "x.csv is a,b"):
            assert done.stdout.count(line) == 3
        assert re.findall(r"asking (\d) hosts? what they have of (\S+)", done.stderr) == [
            ("1", "given"),
            ("3", "needed"),
            ("3", "x.csv"),
        ]
        assert "sending needed, 0.0 MB, through 3 hosts" in done.stderr
        monkeypatch.setenv("HOME", cluster.control_env()["HOME"])
        monkeypatch.chdir(orch.folder)
        assert without(orch, "--csv", "x.csv") == []
        # Changes on a node and on this machine are noticed.
        (held["node3"] / "needed" / "one").write_text("another one")
        Path("x.csv").write_text("c,d")
        assert without(orch, "--csv", "x.csv") == [(1, ["node3"]), (2, ["node1", "node2", "node3"])]
        assert without(orch, "--without") == []
    finally:
        for folder in held.values():
            shutil.rmtree(folder, ignore_errors=True)
