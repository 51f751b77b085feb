"""The node program: shipping over real SSH, noise, logs from an offset, paths out of the tree, full disks."""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from orchestrator.core.transfer.local_tree import Entry, LocalTree, hash_tree, tree_id
from orchestrator.errors import SyncError
from orchestrator.node.host import atomic
from orchestrator.node.probe import dial as probe
from orchestrator.node.run.dead_man_switch import DeadManSwitch, touch
from orchestrator.node.run.follow import sizes_at
from orchestrator.node.run.journal import Journal, read
from orchestrator.protocol import frames as wire
from orchestrator.protocol.run import Follow, ListRuns, RunsHere
from orchestrator.remote.node import Node, program
from orchestrator.remote.store import Push
from tests.conftest import ROOT, Orch
from tests.history import happened
from tests.namespaces import Cluster
from tests.waiting import until

pytestmark = pytest.mark.cluster


def test_the_program_is_shipped_once_and_noise_is_told_apart(node: Node, cluster: Cluster) -> None:
    installed = cluster.hosts[0].home / ".orch" / "lib" / program()[0]
    installed.unlink(missing_ok=True)
    profile = cluster.hosts[0].home / ".bashrc"
    profile.write_text("echo welcome to this machine\n")
    try:
        call = node.call(ListRuns(run_id=None, ended=False))
        assert call.answer(RunsHere.from_wire, 10).runs == ()
        assert call.noise == b"welcome to this machine\n"
        written = installed.stat().st_mtime_ns
        assert node.ask(ListRuns(run_id=None, ended=False), RunsHere.from_wire, 10).runs == ()
        assert installed.stat().st_mtime_ns == written
    finally:
        profile.unlink()


def test_a_log_can_be_followed_from_an_offset(node: Node, orch: Orch) -> None:
    (orch.folder / "count.py").write_text("for n in range(1000): print(n)\n")
    assert orch("run", "--nodes", "1", "count.py").returncode == 0
    request = {"run_id": orch.run_folder().name, "offsets": {"0.stdout": 90}}
    got = b""
    streams = {}
    for kind, payload in node.call(Follow(**request)).frames(30):
        if kind == wire.LOG:
            stream, offset = wire.LOG_HEAD.unpack_from(payload)
            if streams[stream] == "0.stdout":
                assert offset == 90 + len(got)
                got += payload[wire.LOG_HEAD.size :]
        elif (value := json.loads(payload))["type"] == "stream":
            streams[value["id"]] = value["name"]
    assert got == "".join(f"{n}\n" for n in range(1000)).encode()[90:]


@pytest.mark.parametrize("path", ["../out", "/etc/out", "a/../../out", "a//b", "", "a/" + "n" * 300])
def test_a_path_that_leaves_the_tree_is_refused(node: Node, path: str, tmp_path: Path) -> None:
    entries = (Entry(path, "file", 0o644, 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),)
    with pytest.raises(SyncError, match=r"could leave the tree|more than 255 bytes"):
        Push(node, "~/w", "p", LocalTree(tmp_path, entries, tree_id(entry.row for entry in entries))).send()


def test_a_file_that_changes_while_it_is_sent_is_refused(node: Node, tmp_path: Path, cluster: Cluster) -> None:
    (tmp_path / "a").write_text("before")
    snapshot = hash_tree(tmp_path)
    sha = snapshot.entries[0].about
    (tmp_path / "a").write_text("after!")
    with pytest.raises(SyncError, match="arrived damaged"):
        Push(node, "~/w2", "p", snapshot).send()
    assert [path for path in (cluster.hosts[0].home / "w2").rglob("*") if path.name not in ("id", "lock")] == [
        cluster.hosts[0].home / "w2" / name for name in (".orch", ".orch/blobs", f".orch/blobs/{sha[:2]}")
    ]


def test_a_mark_of_time_gives_the_offset_of_each_log(tmp_path: Path) -> None:
    marks = [{"time": 10.0 * n, "sizes": {"0.stdout": 100 * n}} for n in range(1, 5)]
    (tmp_path / "sizes.jsonl").write_text("".join(json.dumps(mark) + "\n" for mark in marks))
    assert sizes_at(str(tmp_path), 25.0) == {"0.stdout": 200}
    assert sizes_at(str(tmp_path), 5.0) == {}
    assert sizes_at(str(tmp_path / "none"), 5.0) == {}


def test_a_node_knows_whether_it_is_cut_off(cluster: Cluster) -> None:
    first, second, third = cluster.hosts
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from orchestrator.node.run.dead_man_switch import any_answers\n"
        "print(any_answers([(address, int(port)) for address, port in zip(sys.argv[1::2], sys.argv[2::2])], 1.0))"
    )

    def answers(*doors: str) -> str:
        return first.run(sys.executable, "-c", code, *doors).stdout.strip()

    third.cut()
    try:
        assert answers(third.address, "22") == "False"
        assert answers(third.address, "22", second.address, "22") == "True"
        # A refused connection is an answer, too: the machine lives.
        assert answers(second.address, "23") == "True"
    finally:
        third.restore()


def test_a_run_ends_without_its_control_machine_if_that_was_asked_for(tmp_path: Path) -> None:
    switch = DeadManSwitch(str(tmp_path), 0.2, None)
    assert switch.reason_to_end() is None
    until(lambda: switch.reason_to_end(), 5)
    assert switch.reason_to_end() == "no contact with the control machine for 0 s"
    touch(str(tmp_path))
    assert switch.reason_to_end() is None
    # A contact file that is empty for a moment, or missing, says nothing about the control machine.
    (tmp_path / "contact").write_text("")
    assert switch.reason_to_end() is None
    (tmp_path / "contact").unlink()
    assert switch.reason_to_end() is None


def test_events_are_kept_until_the_disk_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = os.write
    journal = Journal(str(tmp_path))

    def full(descriptor: int, data: bytes) -> int:
        if descriptor == journal.file and (tmp_path / "ballast").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    journal.record(happened(1.0, "worker", None, {"rank": 0}))
    assert read(str(tmp_path)) == []
    journal.record(happened(2.0, "rank_failed", None, {"rank": 0, "exit_code": 1, "signal": None}))
    assert [event.KIND for event in read(str(tmp_path))] == ["worker", "rank_failed"]
    journal.close()


def test_only_what_this_host_left_incomplete_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORCH_HOSTNAME", "gpu")
    mine = atomic.partial_name()
    assert not atomic.abandoned(mine)
    gone = mine.replace(f"@{os.getpid()}-", "@4194304-")
    assert atomic.abandoned(gone)
    # The folder may be shared with gpu-1, which judges its own names.
    assert not atomic.abandoned(gone.replace("gpu@", "gpu-1@"))
    assert not atomic.abandoned("file")


def test_a_machine_that_was_busy_for_a_moment_is_no_slow_link() -> None:
    """The first stream comes back whole but late, as from a busy node; the second comes back at once."""
    here, there = socket.socketpair()
    late = threading.Event()

    def echo() -> None:
        while data := there.recv(1 << 16):
            if not late.is_set():
                late.set()
                time.sleep(0.2)
            there.sendall(data)

    thread = threading.Thread(target=echo)
    thread.start()
    with here:
        size, seconds = probe.stream(here, None)
    thread.join()
    there.close()
    assert late.is_set() and size == probe.BULK and seconds < 0.1
