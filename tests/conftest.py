"""Fixtures: a cluster of namespace hosts, and ``orch`` as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from orchestrator.remote.node import Node
from tests import bare
from tests.namespaces import Cluster, require

ROOT = Path(__file__).parent.parent
# The real MNIST files, if they are beside the checkout.
DATA = ROOT.parent / "shared" / "data"


# Files with tests of a minute or so. If one of them began last, the other workers would have nothing left to do.
LONG = ("test_elastic.py", "test_slurm.py", "test_survival.py", "test_workloads_run.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long tests first, and those without any host last."""
    items.sort(key=lambda item: (item.path.name not in LONG, "unit" in item.path.parts))


@dataclass
class Orch:
    """``orch`` run against one cluster from a folder of its own."""

    folder: Path
    env: dict[str, str]

    def argv(self, *words: str) -> list[str]:
        """Return the command line, for a test that starts ``orch`` itself."""
        return [sys.executable, "-m", "orchestrator", *words]

    def __call__(self, *words: str, timeout: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
        """Run ``orch`` to its end."""
        return subprocess.run(
            self.argv(*words),
            cwd=self.folder,
            env={**self.env, **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def popen(self, *words: str) -> subprocess.Popen[str]:
        """Start ``orch`` and leave it running."""
        return subprocess.Popen(
            self.argv(*words),
            cwd=self.folder,
            env={**self.env, "PYTHONFAULTHANDLER": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run_folder(self) -> Path:
        """Return the newest run's folder."""
        return max((self.folder / "runs").glob("*-*-*"))

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the newest run's events of one kind."""
        lines = (self.run_folder() / "events.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == kind]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Three namespace hosts with a real sshd each."""
    require()
    with Cluster(3, python=sys.executable, visible=[ROOT, *([DATA] if DATA.is_dir() else [])]) as made:
        yield made


@pytest.fixture
def orch(cluster: Cluster, tmp_path: Path, marked: Callable[[], list[Any]]) -> Iterator[Orch]:
    """``orch`` for the three hosts. Stops the runs that a failed test leaves behind."""
    (tmp_path / "hosts.yaml").write_text(cluster.hosts_yaml())
    made = Orch(tmp_path, {**cluster.control_env(), "PYTHONPATH": str(ROOT)})
    yield made
    if marked():
        made("stop", "--all", "--grace", "0")


@pytest.fixture
def node(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A connection to the first host."""
    monkeypatch.setenv("HOME", cluster.control_env()["HOME"])
    with bare.connected(cluster) as connected:
        yield connected


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with one file, to be synced."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "file").write_text("text")
    return folder


@pytest.fixture
def local_orch(tmp_path: Path) -> Orch:
    """``orch`` with an empty home and no cluster."""
    return Orch(tmp_path, {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)})


@pytest.fixture
def marked(cluster: Cluster) -> Callable[[], list[Any]]:
    """A function that returns every process on any host with a run's mark."""

    def find() -> list[Any]:
        return [each for host in cluster.hosts for each in host.processes() if "ORCH_RUN_ID" in each.environ]

    return find
