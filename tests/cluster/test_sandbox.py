"""The embedded cluster, and the verbs as a user without any other machine calls them."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.core.inventory.hosts import Host
from orchestrator.core.inventory.target import Settings
from orchestrator.remote.ssh.connection import Connection, connections
from orchestrator.sandbox.cluster import Sandbox
from tests.conftest import Orch
from tests.forked import free_port

# A host's lock goes by its name, and other tests run on node1 and node2, and with the usual port, meanwhile.
SANDBOX = "cluster: box\nsandbox: true\nhosts: {box1: {}, box2: {}}\n"


def connected(sandbox: Sandbox) -> list[Connection]:
    """Start a sandbox and connect to each of its hosts."""
    hosts = [
        Host(each.name, each.address, each.user, each.port, each.identity_file, host_key=each.host_key)
        for each in sandbox.start(keep=False)
    ]
    links = connections(hosts, Settings())
    for link in links:
        link.open()
    return links


def test_logins_are_real_and_apart(tmp_path: Path) -> None:
    sandbox = Sandbox(tmp_path / "box", ["box1", "box2"])
    first, second = connected(sandbox)
    try:
        out, _ = first.command("touch mine; echo $ORCH_HOSTNAME $SSH_CONNECTION; exit 7").output()
        assert out.startswith(b"box1 127.0.0.1 ")
        assert second.command("ls").output() == (b"", b"")
        channel = first.command("echo bad >&2; exit 7")
        assert channel.output() == (b"", b"bad\n")
        assert channel.exit_code() == 7
        data = os.urandom(1 << 20) * 20
        channel = first.command("sha256sum")
        channel.write(data)
        channel.end_input()
        assert channel.output()[0].split()[0].decode() == hashlib.sha256(data).hexdigest()
    finally:
        for link in (first, second):
            link.close()
        sandbox.release()


def test_the_servers_end_with_whoever_started_them(tmp_path: Path) -> None:
    code = (
        "import os, sys, time; from pathlib import Path; from orchestrator.sandbox.cluster import Sandbox\n"
        "box = Sandbox(Path(sys.argv[1]), ['a']); box.start(keep=False); print(box._child.pid, flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "box")], stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout
    server = int(starter.stdout.readline())
    os.kill(starter.pid, signal.SIGKILL)
    starter.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{server}/stat").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{server}/stat").exists()


def test_verbs_on_a_kept_sandbox(local_orch: Orch) -> None:
    orch = local_orch
    (orch.folder / "hosts.yaml").write_text(SANDBOX)
    (orch.folder / "pyproject.toml").write_text("")
    (orch.folder / "t.py").write_text("print('hi')\n")
    try:
        assert orch("sandbox", "up").stdout.count("ssh -i ") == 2
        assert orch("exec", "--", "echo", "$HOME; x").stdout == "$HOME; x\n"
        first = orch("sync")
        assert "to 2 of 2 hosts" in first.stderr
        assert "is on 2 hosts" in first.stdout
        assert "every host has it" in orch("sync").stderr
        shown = json.loads(orch("plan", "--format", "json", "t.py", "--", "a b").stdout)
        assert [node["node_rank"] for node in shown["nodes"]] == [0, 1]
        assert shown["nodes"][0]["argv"][-2:] == ["t.py", "a b"]
        offline = orch("plan", "--offline", "--format", "sh", "t.py")
        assert '"$HOME"/orch-work/runs/box1/' in offline.stdout
        well = orch("doctor")
        assert well.returncode == 0 and well.stdout.startswith("box[1-2]: "), well.stdout
        assert orch("stop", "--all").stdout == "nothing to stop\n"
    finally:
        assert orch("sandbox", "down").stdout == "stopped\n"
    assert orch("sandbox", "down").stdout == "the sandbox was not running\n"


@pytest.mark.torch
def test_a_detached_run_outlives_the_sandboxs_servers(local_orch: Orch) -> None:
    orch = local_orch
    (orch.folder / "hosts.yaml").write_text(SANDBOX)
    (orch.folder / "pyproject.toml").write_text("")
    (orch.folder / "t.py").write_text(
        "import time\ntime.sleep(1)\nopen('made', 'w').write('it')\nprint('made it')\n"
    )
    started = orch("run", "--detach", "--port", str(free_port()), "t.py")
    assert started.returncode == 0, started.stderr
    attached = orch("attach")
    assert attached.returncode == 0, attached.stderr
    assert "[box1:0] made it" in attached.stdout and "[box2:1] made it" in attached.stdout
    assert (orch.folder / "runs" / started.stdout.strip() / "box2" / "made").read_text() == "it"
    assert orch("attach").stderr.startswith("looking") and "nothing runs" in orch("attach").stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "train"], "No such file or directory → write one with orch init"),
        (["run", "trian"], "no workload or script 'trian' → did you mean train?"),
        (["run"], "no workload given"),
        (
            ["run", "--epochs", "3", "train"],
            "an option of the workload follows its name → orch run train --epochs 3",
        ),
        (["run", "--nproc", "0", "train"], "--nproc 0: expected auto, gpu, cpu or a number from 1 on"),
        (["run", "--env", "X-Y", "train"], "--env 'X-Y': expected NAME=VALUE"),
        (["run", "--port", "99999", "train"], "99999"),
        (["stop"], "say which run to stop"),
        (["run", "--on-disconnect", "stop", "train"], "expected continue, or stop:SECONDS"),
        (["logs", "--since", "soon"], "--since soon: expected an age such as 90s, 10m or 2h"),
        (
            ["exec", "--hosts", ".", "--", "true"],
            "the hosts file . is a folder, without a configuration of Accelerate in it",
        ),
    ],
)
def test_usage_errors_are_one_line(local_orch: Orch, words: list[str], expected: str) -> None:
    result = local_orch(*words)
    assert result.returncode == 2
    assert expected in result.stderr
    assert "Traceback" not in result.stderr
