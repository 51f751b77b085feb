"""Nodes with an old Python, file systems without locks or links, and files that a power cut damaged."""

from __future__ import annotations

import ast
import errno
import fcntl
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator.core.diagnosis.diagnosis import diagnose
from orchestrator.core.inventory.hosts import Host, Outputs
from orchestrator.core.inventory.target import Settings
from orchestrator.core.run.result import fold
from orchestrator.core.transfer.local_tree import hash_tree
from orchestrator.errors import OrchError
from orchestrator.local.run_folder import read_events
from orchestrator.node.host import paths, shared_disk
from orchestrator.node.run import journal
from orchestrator.node.store import blobs
from orchestrator.protocol import frames
from orchestrator.protocol.facts import AskFacts, Clock, NodeFacts
from orchestrator.protocol.run import Kept, ListRuns, RunsHere
from orchestrator.protocol.transfer import BuildEnvironment, Prune, Pruned, Verified, Verify, Wheels
from orchestrator.remote import node as node_module
from orchestrator.remote.node import Node, program
from orchestrator.remote.outputs import collect
from orchestrator.remote.relay import RelayCall
from orchestrator.remote.ssh.connection import connections
from orchestrator.sandbox.cluster import Sandbox
from tests import bare
from tests.conftest import ROOT
from tests.history import happened

VERSIONS = ("3.7", "3.8")


def old_python(version: str) -> str | None:
    """Return an interpreter of an old version from the system or from pyenv, or None."""
    kept = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python{version}"))
    return shutil.which(f"python{version}", path="/usr/bin:/usr/local/bin") or (str(kept[0]) if kept else None)


@pytest.fixture
def boxed(tmp_path: Path) -> Iterator[Node]:
    """A node of the embedded cluster."""
    sandbox = Sandbox(tmp_path / "box", ["node1"])
    (served,) = sandbox.start(keep=False)
    host = Host("node1", served.address, served.user, served.port, served.identity_file, host_key=served.host_key)
    (link,) = connections([host], Settings())
    link.open()
    yield Node(link)
    link.close()
    sandbox.release()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_whole_life_on_an_old_python(
    boxed: Node, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = old_python(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    call, install = node_module.call_command, node_module.install_command
    monkeypatch.setattr(node_module, "call_command", lambda verb: call(verb).replace("python3", python, 1))
    monkeypatch.setattr(node_module, "install_command", lambda: install().replace("python3", python, 1))
    project = tmp_path / "project"
    project.mkdir()
    (project / "file").write_text("text")
    asked = bare.request(boxed, project, ["sh", "-c", "echo said; echo wrote > out; sleep 300"])
    call_ = bare.start(boxed, asked)
    for kind, payload in call_.frames(20):
        if kind == b"L" or b'"torchrun_started"' in payload:
            break
    (run,) = boxed.ask(ListRuns(run_id=None, ended=False), RunsHere.from_wire, 20).runs
    assert run.state == "running"
    assert boxed.stop(asked.run_id, 5.0).ended == (asked.run_id,)
    assert collect(boxed, asked.run_id, Outputs(), tmp_path / "got").files >= 1
    facts = boxed.call(AskFacts(parts=("system", "limits", "memory", "interfaces")))
    facts.answer(Clock.from_wire, 30)
    assert facts.answer(NodeFacts.from_wire, 30).parts.system is not None
    tree = Verify(workdir="~/orch-work", project=bare.PROJECT, tree=asked.tree)
    assert boxed.ask(tree, Verified.from_wire, 20) == Verified(changed=(), missing=(), added=())
    relay = RelayCall(boxed, "~/orch-work", "~/orch-work/data/x", hash_tree(project).entries)
    relay.listen(["127.0.0.1"])
    relay.order("token", None, [(0, 0)])
    relay.feed(iter([b"text"]))
    assert relay.result(lambda done: None).complete
    request = Prune(workdir="~/orch-work", keep=1, runs=True, used=())
    assert boxed.ask(request, Pruned.from_wire, 20).runs == 0


def test_an_installation_that_fails_leaves_nothing(
    boxed: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        node_module, "INSTALL", node_module.INSTALL.replace("py_compile.compile(", "1 // 0; py_compile.compile(")
    )
    with pytest.raises(OrchError, match="ZeroDivisionError"):
        boxed.stop("none", 0.0)
    (lib,) = (tmp_path / "box").rglob(".orch/lib")
    assert list(lib.iterdir()) == []
    monkeypatch.undo()
    (lib / "node-0000.pyz").write_text("old")
    os.utime(lib / "node-0000.pyz", (0, 0))
    boxed.stop("none", 0.0)
    assert [each.name for each in lib.iterdir()] == [program()[0]]


class OddDisk:
    """Let ``flock`` and ``link`` fail as they do on some file systems."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        self.kind = kind
        self.flock, self.link = fcntl.flock, os.link
        monkeypatch.setattr(fcntl, "flock", self.locked)
        monkeypatch.setattr(os, "link", self.linked)

    def locked(self, file: Any, how: int) -> None:
        inside = "/workdir/" in str(Path(f"/proc/self/fd/{file.fileno()}").readlink())
        mode = fcntl.fcntl(file, fcntl.F_GETFL) & os.O_ACCMODE
        if inside and self.kind == "nfs4" and how & fcntl.LOCK_SH and mode == os.O_WRONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        if inside and self.kind == "lustre":
            raise OSError(errno.ENOSYS, "Function not implemented")
        self.flock(file, how)

    def linked(self, source: str, target: str) -> None:
        if self.kind == "exfat":
            raise OSError(errno.EPERM, "Operation not permitted")
        self.link(source, target)


@pytest.mark.parametrize("kind", ["nfs4", "lustre", "exfat"])
def test_a_workdir_on_an_odd_disk(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    OddDisk(monkeypatch, kind)
    workdir = str(tmp_path / "workdir")
    assert shared_disk.of(workdir) == shared_disk.of(workdir)
    store = blobs.Blobs(workdir)
    with store.held(), pytest.raises(Exception, match="another sync or prune of this"), store.held(alone=True):
        pass
    with store.held(alone=True):
        pass


def test_two_builds_of_one_environment_at_once(tmp_path: Path, boxed: Node) -> None:
    fake = tmp_path / "python"
    fake.write_text(
        '#!/bin/sh\ncase "$*" in *json*) echo; echo \'["3.11.0", "/x"]\';; *venv*) sleep 1; for last; do :; done;'
        " mkdir -p $last/bin; printf '#!/bin/sh\\n' > $last/bin/python; chmod +x $last/bin/python;; esac\n"
    )
    fake.chmod(0o755)
    ended: list[Any] = []

    def build() -> None:
        call = boxed.call(BuildEnvironment(workdir="~/w", key="ab" * 16, requirements="x", python=str(fake)))
        call.channel.write(frames.message_frame(Wheels(wheels=None)))
        found = [json.loads(payload) for _, payload in call.frames(20)]
        ended.append(found[-1])

    boxed.stop("none", 0.0)
    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ended) == 3 and all(each.get("ready") for each in ended), ended


DAMAGED = (
    b'{"event": "torchrun_started", "time": 1.0, "pid": 7}\n\0\0\0\0'
    b'{"event": "failed_to_start", "time": 2.0, "error": "x"}\n\0\0\0\n{"ev\n[]\n'
)


def test_events_that_a_power_cut_damaged_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes(
        DAMAGED + b'{"event": "stopping", "time": 3.0, "by": "x", "grace": 1}\n'
    )
    assert [event.KIND for event in journal.read(str(tmp_path))] == [
        "torchrun_started",
        "failed_to_start",
        "stopping",
    ]
    assert [event.KIND for event in read_events(tmp_path)] == ["torchrun_started", "failed_to_start", "stopping"]


def test_a_machine_that_was_started_anew_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = Path(paths.attempt_dir("run", 1))
    folder.mkdir(parents=True)
    kept = Kept(run_id="run", attempt=1, work="/w", workdir="/d", tree="ab" * 16, boot_id=paths.boot_id())
    (folder / "run.json").write_text(json.dumps(kept.to_wire()))
    assert not paths.rebooted("run", 1)
    (folder / "run.json").write_text(json.dumps(kept.replace(boot_id="another").to_wire()))
    assert paths.rebooted("run", 1)
    planned = happened(0.0, "planned", None, {"nodes": ["gpu1"], "attempt": 1})
    result = fold([planned, happened(1.0, "orphaned", "gpu1", {"rebooted": True})])
    assert result.failures[0].describe() == "gpu1 was rebooted during the run"
    found = diagnose(result)
    assert found is not None and found.signature == "rebooted"


@pytest.mark.parametrize(
    ("folder", "version"),
    [("orchestrator/node", (3, 7)), ("orchestrator/protocol", (3, 7)), ("workloads", (3, 9))],
)
def test_what_runs_on_nodes_is_written_for_old_pythons(folder: str, version: tuple[int, int]) -> None:
    for file in (ROOT / folder).rglob("*.py"):
        tree = ast.parse(file.read_text(), feature_version=version)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "zip":
                assert not [word for word in node.keywords if word.arg == "strict"], file.name
            if isinstance(node, ast.With) and version < (3, 9):
                # ast accepts parentheses around several items, new in 3.9's grammar, for any version.
                line = file.read_text().splitlines()[node.lineno - 1]
                assert not line.rstrip().endswith("with ("), f"{file.name}:{node.lineno}"
