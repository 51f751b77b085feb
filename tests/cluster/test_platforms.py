"""Unusual machines: other systems, login shells and GPUs, containers, systemd sessions."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.cli import program
from orchestrator.core.checks.catalogue import check
from orchestrator.core.checks.facts import Facts
from orchestrator.core.checks.findings import Examined
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.launch.plan import nproc_for
from orchestrator.node.host import bounded
from orchestrator.node.probe import machine
from orchestrator.node.probe.facts import amd_gpus, gpu_count
from orchestrator.protocol import facts
from orchestrator.protocol.facts import Logout, Parts
from orchestrator.remote.login import command_line
from orchestrator.remote.ping import options
from orchestrator.sandbox.server import own_address
from orchestrator.ui.answers import show_answer
from orchestrator.ui.display import Display
from tests.conftest import Orch
from tests.hostile import FACTS
from tests.namespaces import Cluster


@pytest.fixture
def forced(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster; after the test the first host runs any command again."""
    yield cluster
    cluster.hosts[0].restart_sshd({"ForceCommand": "none"})


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("case $SSH_ORIGINAL_COMMAND in uname*) echo Darwin; exit 86;; *) exit 127;; esac",
         "runs macOS, and orch's nodes need Linux → orch plan --offline"),
        ("echo \"'uname' is not recognized as an internal or external command\" >&2; exit 1",
         "runs Windows, and orch's nodes need Linux → orch plan --offline"),
        ("/usr/sbin/nologin", "its login shell runs no commands (This account is currently not available.)"),
        ("/bin/false", "its login shell runs no commands (it ends without a word)"),
        ("echo Welcome to the gateway", "its SSH server runs another command, which printed 'Welcome to the"),
    ],
)  # fmt: skip
def test_a_node_that_cannot_run_anything_is_told_in_one_line(
    orch: Orch, forced: Cluster, command: str, what: str
) -> None:
    forced.hosts[0].restart_sshd({"ForceCommand": command})
    result = orch("ps", "--all", "--nodes", "node1")
    assert result.returncode == 3, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: node1: ") and what in line


@pytest.mark.cluster
@pytest.mark.parametrize("shell", ["tcsh"])
def test_any_login_shell_will_do(orch: Orch, forced: Cluster, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    host = forced.hosts[0]
    shutil.rmtree(host.home / ".orch" / "lib", ignore_errors=True)
    host.restart_sshd({"ForceCommand": f'exec {shell} -c "$SSH_ORIGINAL_COMMAND"'})
    for words in (("ps", "--all"), ("sync", "--dry-run")):
        result = orch(*words, "--nodes", "node1")
        assert result.returncode == 0, result.stderr


def test_other_gpus_are_counted_as_torch_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, simd in enumerate((0, 304, 304)):
        node = tmp_path / str(number)
        node.mkdir()
        (node / "properties").write_text(f"cpu_cores_count {0 if simd else 64}\nsimd_count {simd}\n")
    assert [Path(path).name for path in amd_gpus(str(tmp_path))] == ["1", "2"]
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "0,3")
    assert gpu_count() == 2


@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"])
def test_the_devices_that_ranks_may_see_decide_how_many_there_are(name: str) -> None:
    known = replace(Facts.from_answer("a", facts.NodeFacts.from_wire(FACTS)), gpus=8)
    assert nproc_for(Host("a", "a"), known) == 8
    assert nproc_for(Host("a", "a", env={name: "0,1"}), known) == 2
    assert nproc_for(Host("a", "a", env={name: "0,1"}), known, {name: "5"}) == 1
    assert nproc_for(Host("a", "a", env={name: ""}), known) == 1
    assert nproc_for(Host("a", "a", nproc=4, env={name: "0,1"}), known) == 4


def test_a_backend_without_a_launcher_is_refused(local_orch: Orch) -> None:
    result = local_orch("run", "--backend", "mpi", "hello")
    assert result.returncode == 2
    assert result.stderr == "error: --backend mpi: only mpirun starts such ranks → add --launcher mpirun\n"


def examined(**systems: dict[str, str]) -> Examined:
    """Return what doctor sees of hosts whose systems differ in these facts."""
    seen = {}
    for name, changes in systems.items():
        known = Facts.from_answer(name, facts.NodeFacts.from_wire(FACTS))
        mtu = int(changes.pop("mtu", 1500))
        card = facts.Interface(up=True, speed=1000, mtu=mtu, kind="ethernet")
        system = known.parts.system.replace(**changes) if known.parts.system is not None else None
        parts = known.parts.replace(system=system, interfaces={"eth0": card})
        seen[name] = replace(known, node=name, hostname=name, parts=parts, running=None, leftovers=())
    hosts = [Host(name, name) for name in systems]
    return Examined(hosts, seen, addresses=dict.fromkeys(systems, "10.0.0.1"))


def said(seen: Examined, name: str) -> list[str]:
    return [str(found) for found in check(seen) if found.check == name]


def test_containers_of_one_machine_are_machines_of_their_own() -> None:
    seen = examined(a={"boot_id": "x", "network": "1"}, b={"boot_id": "x", "network": "2"})
    assert said(seen, "identity") == []
    (line,) = said(examined(a={"boot_id": "x", "network": "1"}, b={"boot_id": "x", "network": "1"}), "identity")
    assert "are one machine" in line
    assert machine.network() == str(Path("/proc/self/ns/net").readlink())[5:-1]


def test_mtus_that_differ_are_mentioned() -> None:
    (line,) = said(examined(a={"mtu": "1500"}, b={"mtu": "9000"}, c={"mtu": "9000"}), "equal mtu")
    assert line.startswith("a: the MTU is 1500; most hosts have 9000")
    assert said(examined(a={}, b={}), "equal mtu") == []


def test_equal_silence_of_many_hosts_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    show_answer(Display(), [f"gpu{n:03}" for n in range(101, 301)], 0, b"", b"")
    assert capsys.readouterr().err == "gpu[101-300]: no output\n"


LOGIND = {"kills": "KillUserProcesses=yes\n", "spares": "KillUserProcesses=yes\nKillExcludeUsers=u root\n",
          "only": "KillUserProcesses=yes\nKillOnlyUsers=v\n", "usual": "#KillUserProcesses=yes\n"}  # fmt: skip
SCOPE, SERVICE = "0::/user.slice/user-1000.slice/session-3.scope", "0::/system.slice/sshd.service"


@pytest.mark.parametrize(
    ("config", "group", "kills"),
    [("kills", SCOPE, True), ("kills", SERVICE, False), ("spares", SCOPE, False), ("only", SCOPE, False),
     ("usual", SCOPE, False)],
)  # fmt: skip
def test_whether_logout_ends_a_run(config: str, group: str, kills: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/etc/systemd/logind.conf": LOGIND[config], "/proc/self/cgroup": group}
    monkeypatch.setattr(machine, "read", lambda path: files.get(path, ""))
    monkeypatch.setattr(machine.getpass, "getuser", lambda: "u")
    monkeypatch.setattr(machine.glob, "glob", lambda pattern: [])
    assert machine.logout() == Logout(kills=kills, moves=False)


def test_a_supervisor_leaves_a_session_that_would_take_it_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busctl = tmp_path / "busctl"
    busctl.write_text(f'#!/bin/sh\necho "$XDG_RUNTIME_DIR $*" > {tmp_path}/asked\n')
    busctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    machine.leave_session("run-1")
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith(f"/run/user/{os.getuid()} --user call org.freedesktop.systemd1 ")
    assert asked.endswith(
        f"StartTransientUnit ssa(sv)a(sa(sv)) orch-run-1.scope fail 1 PIDs au 1 {os.getpid()} 0\n"
    )
    busctl.write_text("#!/bin/sh\necho no >&2; exit 1\n")
    with pytest.raises(bounded.NoAnswer, match="exit code 1: no"):
        machine.leave_session("run-1")


def test_before_a_run_is_left_alone_its_end_is_foretold() -> None:
    seen = examined(a={}, b={})
    parts = seen.facts["a"].parts.replace(logout=Logout(kills=True, moves=False))
    seen = replace(seen, facts={**seen.facts, "a": replace(seen.facts["a"], parts=parts)})
    (line,) = said(seen, "logout")
    assert line.startswith("a: systemd ends a session's processes at logout")
    assert "run there: sudo loginctl enable-linger u; orch then leaves the session" in line


def test_a_control_machine_with_windows_is_told_of_wsl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program.sys, "platform", "win32")
    monkeypatch.setattr(program.os, "_exit", lambda code: (_ for _ in ()).throw(SystemExit(code)))
    printed: list[str] = []
    monkeypatch.setattr(program.click, "echo", lambda text, err: printed.append(text))
    with pytest.raises(SystemExit) as ended:
        program.main([])
    assert ended.value.code == 2 and "run it in WSL" in printed[0]


def test_the_embedded_cluster_does_with_one_loopback_address() -> None:
    assert own_address("127.0.0.11") == "127.0.0.11"
    assert own_address("192.0.2.1") == "127.0.0.1"


@pytest.mark.parametrize("shell", ["sh", "bash", "tcsh"])
def test_words_reach_a_command_through_any_login_shell(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this machine")
    words = ["a b", "!x", "two\nlines", "back\\slash", "'", '"', "$HOME", "`id`", "=ls", "*", "", "ü", "%s"]
    done = subprocess.run([shell, "-c", command_line(["printf", "[%s]", *words])], capture_output=True, check=True)
    assert done.stdout.decode() == "".join(f"[{word}]" for word in words)


def test_ping_waits_in_its_systems_units() -> None:
    assert options("linux")[-1] == "1" and options("darwin")[-1] == "1000"


@pytest.mark.parametrize(
    "part", ["system", "own_name", "limits", "memory", "variables", "interfaces", "home", "timekeeping", "logout"]
)
def test_what_a_node_says_of_itself_arrives_whole(part: str) -> None:
    said = getattr(machine, part)()
    sent = json.loads(json.dumps(Parts(**{part: said}).to_wire()))
    assert getattr(Parts.from_wire(sent), part) == said
