"""The node program over real SSH: shipping, noise, following from an offset, refusing what leaves the tree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.core.inventory import Host
from orchestrator.core.snapshot import Entry, Snapshot, take, tree_id
from orchestrator.errors import SyncError
from orchestrator.node import wire
from orchestrator.remote.node import Node, program
from orchestrator.remote.ssh import Settings, connections
from tests.cluster import Cluster
from tests.conftest import Orch

pytestmark = pytest.mark.cluster


@pytest.fixture
def node(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A connection to the first host."""
    monkeypatch.setenv("HOME", cluster.control_env()["HOME"])
    host = Host("node1", cluster.hosts[0].address, user="root", identity_file=str(cluster.identity_file))
    link = connections([host], Settings())[0]
    link.open()
    yield Node(link)
    link.close()


def test_the_program_is_shipped_once_and_noise_is_told_apart(node: Node, cluster: Cluster) -> None:
    installed = cluster.hosts[0].home / ".orch" / "lib" / program()[0]
    installed.unlink(missing_ok=True)
    profile = cluster.hosts[0].home / ".bashrc"
    profile.write_text("echo welcome to this machine\n")
    try:
        call = node.call("status", {})
        assert call.answer() == {"running": None}
        assert call.noise in (b"", b"welcome to this machine\n")
        written = installed.stat().st_mtime_ns
        assert node.ask("status", {}) == {"running": None}
        assert installed.stat().st_mtime_ns == written
    finally:
        profile.unlink()


def test_a_log_can_be_followed_from_an_offset(node: Node, orch: Orch) -> None:
    (orch.folder / "count.py").write_text("for n in range(1000): print(n)\n")
    assert orch("run", "--nodes", "1", "count.py").returncode == 0
    request = {"run_id": orch.run_folder().name, "offsets": {"0.stdout": 90}}
    got = b""
    streams = {}
    for kind, payload in node.call("follow", request).frames():
        if kind == wire.LOG:
            stream, offset = wire.LOG_HEAD.unpack_from(payload)
            if streams[stream] == "0.stdout":
                assert offset == 90 + len(got)
                got += payload[wire.LOG_HEAD.size :]
        elif (value := json.loads(payload))["type"] == "stream":
            streams[value["id"]] = value["name"]
    assert got == "".join(f"{n}\n" for n in range(1000)).encode()[90:]


@pytest.mark.parametrize("path", ["../out", "/etc/out", "a/../../out", "a//b", ""])
def test_a_path_that_leaves_the_tree_is_refused(node: Node, path: str, tmp_path: Path) -> None:
    entries = (Entry(path, "file", 0o644, 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),)
    with pytest.raises(SyncError, match="could leave the tree"):
        node.store(Snapshot(tmp_path, entries, tree_id(entries)), "~/w", "p")


def test_a_file_that_changes_while_it_is_sent_is_refused(node: Node, tmp_path: Path, cluster: Cluster) -> None:
    (tmp_path / "a").write_text("before")
    snapshot = take(tmp_path)
    (tmp_path / "a").write_text("after!")
    with pytest.raises(SyncError, match="arrived damaged"):
        node.store(snapshot, "~/w2", "p")
    assert list((cluster.hosts[0].home / "w2" / "p").iterdir()) == []
