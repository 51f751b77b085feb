"""Attacks on a run by another user of its node, made as user nobody: none has an effect."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.core.transfer.local_tree import hash_tree
from orchestrator.errors import OrchError
from orchestrator.node.host import paths
from orchestrator.node.store import parts
from orchestrator.protocol import frames as wire
from orchestrator.protocol.facts import AskFacts, Clock, NodeFacts
from orchestrator.protocol.probe import Listening
from orchestrator.protocol.refusal import Refused
from orchestrator.protocol.run import ListRuns, RunsHere
from orchestrator.remote import node as node_module
from orchestrator.remote.node import Node
from orchestrator.remote.relay import RelayCall
from orchestrator.remote.store import Push
from tests import bare
from tests.conftest import Orch
from tests.namespaces import Cluster, NodeHost, Process
from tests.waiting import until

pytestmark = pytest.mark.cluster

NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
CONNECTED = """
import json, os, socket, sys, time
def lock():
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(5)
    sock.connect("\\0orch-host-lock:" + socket.gethostname())
    return sock
"""


@contextmanager
def stranger(host: NodeHost, code: str, *words: str, env: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    """Run Python code on a host as nobody for as long as the context lasts."""
    argv = host.enter(*NOBODY, *env, "python3", "-c", CONNECTED + code, *words)
    with subprocess.Popen(argv, env=host.login(), stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            # A process that has changed its user does not end with its parent.
            for each in host.processes():
                if CONNECTED + code in each.argv:
                    os.kill(each.pid_outside, 9)


def sleepers(host: NodeHost) -> list[Process]:
    """Return the jobs on a host."""
    return [each for each in host.processes() if each.argv[:1] == ["sleep"]]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def states(node: Node, run_id: str) -> list[str]:
    answer = node.ask(ListRuns(run_id=run_id, ended=True), RunsHere.from_wire, 20.0)
    return [run.state for run in answer.runs]


def test_what_a_stranger_sends_to_the_lock_neither_ends_nor_holds_up_a_run(
    node: Node, cluster: Cluster, project: Path
) -> None:
    host = cluster.hosts[0]
    asked = bare.request(node, project, ["sleep", "300"])
    bare.start(node, asked)
    # The stranger sends malformed questions, a question, a flood, and bytes on connections that stay open.
    code = """
stop = json.dumps({"op": "stop", "run_id": None, "grace": 0}).encode() + b"\\n"
for said in (b"[]\\n", b"null\\n", b"{}\\n", b'{"op": "stop"}\\n', stop, b"\\xff\\n", b"[" * 100000, b""):
    try:
        sock = lock(); sock.sendall(said); print(sock.recv(100))
    except OSError as error:
        print(type(error).__name__)
held = []
for _ in range(60):
    held.append(lock())
    try: held[-1].send(b"{")
    except OSError: pass
print("held", flush=True)
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    try: lock().close()
    except OSError: pass
    for sock in held:
        try: sock.send(b" ")
        except OSError: pass
"""
    with stranger(host, code, "20") as sending:
        assert sending.stdout is not None
        heard = [line.strip() for line in iter(sending.stdout.readline, "held\n")]
        assert heard and set(heard) <= {"b''", "BrokenPipeError", "ConnectionResetError"}
        assert states(node, asked.run_id) == ["running"]
        began = time.monotonic()
        answer = node.stop(asked.run_id, 5.0)
        took = time.monotonic() - began
    assert answer.ended == (asked.run_id,) and answer.refused is None
    assert took < 3.0


def test_the_users_own_nonsense_does_not_end_a_run_either(node: Node, cluster: Cluster, project: Path) -> None:
    asked = bare.request(node, project, ["sleep", "300"])
    bare.start(node, asked)
    lines = ("[]", "null", '{"op": 1}', '{"op": "stop"}', '{"op": "stop", "run_id": 1, "grace": 1}')
    more = (
        '{"op": "stop", "run_id": null, "grace": "x"}',
        '{"op": "stop", "run_id": null, "grace": NaN}',
        "x" * 9000,
    )
    code = (
        CONNECTED + "for said in sys.argv[1:]: sock = lock(); sock.sendall(said.encode() + b'\\n'); sock.recv(9)\n"
    )
    # A slow connection is closed unanswered and holds up nobody.
    code += "slow = lock(); slow.send(b'{'); print(slow.recv(1))"
    done = cluster.hosts[0].run("python3", "-c", code, *lines, *more)
    assert done.returncode == 0 or "ConnectionReset" in done.stderr, done.stderr
    assert states(node, asked.run_id) == ["running"]
    assert node.stop(asked.run_id, 5.0).ended == (asked.run_id,)


IMPOSTOR = """
sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
sock.bind("\\0orch-host-lock:" + socket.gethostname()); sock.listen(64); print("held", flush=True)
said = 0
while True:
    try: peer, _ = sock.accept(); peer.settimeout(1); peer.recv(1000)
    except OSError: continue
    said += 1
    try: peer.sendall(sys.argv[1:][said % len(sys.argv[1:])].encode() + b"\\n")
    except OSError: pass
"""


def test_a_stranger_who_holds_the_lock_is_named_and_not_believed(
    node: Node, orch: Orch, cluster: Cluster, project: Path
) -> None:
    host = cluster.hosts[0]
    asked = bare.request(node, project, ["sh", "-c", "sleep 300; true"])
    bare.start(node, asked)
    # The supervisor is killed, its job lives on, and another user takes the lock that is free now.
    until(lambda: sleepers(host), 10)
    (job,) = sleepers(host)
    os.kill(parent_of(parent_of(job.pid_outside)), 9)
    lies = ("[1]", json.dumps({"gone": True, "run_id": asked.run_id}), '{"run_id": "x\\u001b[2J"}', "nonsense")
    with stranger(host, IMPOSTOR, *lies) as impostor:
        assert impostor.stdout is not None and impostor.stdout.readline() == "held\n"
        shown = orch("ps", "--nodes", "node1")
        assert shown.returncode == 0 and "left over" in shown.stdout and "Traceback" not in shown.stderr
        pruned = orch("sync", "--prune", "--nodes", "node1")
        assert pruned.returncode == 0, pruned.stderr
        stopped = orch("stop", "--all", "--nodes", "node1", "--grace", "1")
        assert f"stopped {asked.run_id} on node1" in stopped.stdout
        assert stopped.returncode == 3
        assert "taken by nobody (uid 65534, pid" in stopped.stderr
        refused = orch("run", "--nodes", "node1", "hello")
        assert refused.returncode == 3
        assert "taken by nobody (uid 65534, pid " in refused.stderr
    until(lambda: node.idle(), 10)
    assert sleepers(host) == []


def test_a_strangers_process_with_the_mark_of_a_run_is_none_of_it(
    node: Node, cluster: Cluster, project: Path
) -> None:
    host = cluster.hosts[0]
    asked = bare.request(node, project, ["sleep", "300"])
    bare.start(node, asked)
    mark = ("env", f"ORCH_RUN_ID={asked.run_id}", "ORCH_ATTEMPT=1")
    code = "import signal; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    with stranger(host, code, env=mark) as marked:
        assert marked.stdout is not None and marked.stdout.readline() == "1\n"
        began = time.monotonic()
        answer = node.stop(asked.run_id, 5.0)
        assert answer.ended == (asked.run_id,) and answer.alive == () and time.monotonic() - began < 3.0
        assert marked.poll() is None


def test_a_process_that_cannot_be_ended_is_named(
    node: Node, cluster: Cluster, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Like a rank's child that sudo runs as another user: this supervisor lacks root's right to signal others.
    host = cluster.hosts[0]
    usual = node_module.call_command
    powerless = "exec setpriv --bounding-set=-kill python3"
    monkeypatch.setattr(node_module, "call_command", lambda verb: usual(verb).replace("exec python3", powerless))
    asked = bare.request(node, project, ["setpriv", "--reuid=65534", "--clear-groups", "sleep", "300"])
    call = bare.start(node, asked)
    until(lambda: sleepers(host), 10)
    (job,) = sleepers(host)
    try:
        answer = node.stop(asked.run_id, 0.0)
        assert answer.alive == (f"pid {job.pid_inside} (sleep) of nobody",)
        events = [json.loads(payload).get("event") for kind, payload in call.frames(10) if kind == wire.JSON]
        assert [each["alive"] for each in events if each and each["event"] == "finished"] == [list(answer.alive)]
    finally:
        os.kill(job.pid_outside, 9)


def test_what_orch_keeps_of_a_run_is_its_users_alone(node: Node, cluster: Cluster, project: Path) -> None:
    host = cluster.hosts[0]
    asked = bare.request(node, project, ["sh", "-c", "touch made; echo said; sleep 300"])
    bare.start(node, asked)
    until(lambda: list(host.home.glob(f"orch-work/runs/node1/{asked.run_id}/made")), 10)
    node.stop(asked.run_id, 1.0)
    kept = list(host.home.glob(f".orch/node1/runs/{asked.run_id}/**/*"))
    work = host.home / "orch-work" / "runs" / "node1" / asked.run_id
    kept += [work.with_name(f"{work.name}.logs"), *work.with_name(f"{work.name}.logs").rglob("*")]
    assert {"run.json", "events.jsonl", "torchrun.log", "before.json"} <= {path.name for path in kept}
    assert [path for path in [*kept, work] if path.stat().st_mode & 0o077] == []
    # Files that ranks write have the mode of their user's other files.
    assert (work / "made").stat().st_mode & 0o777 == 0o644


def test_a_workdir_that_somebody_else_prepared_is_not_used(node: Node, cluster: Cluster, project: Path) -> None:
    host = cluster.hosts[0]
    for prepared in (".orch", bare.PROJECT):
        where = host.run("mktemp", "-d").stdout.strip()
        host.run("chmod", "1777", where)
        assert host.run(*NOBODY, "--", "mkdir", f"{where}/{prepared}").returncode == 0
        with pytest.raises(OrchError, match=r"belongs to another user \(uid 65534\): choose another workdir"):
            Push(node, where, bare.PROJECT, hash_tree(project)).send()
    host.run("chmod", "0777", where)
    host.run("rmdir", f"{where}/{prepared}")
    with pytest.raises(OrchError, match="every user may rename what is in"):
        Push(node, where, bare.PROJECT, hash_tree(project)).send()


def listening(host: NodeHost) -> set[str]:
    """Return the addresses, in hexadecimal, that something on a host listens at."""
    lines = [line.split() for line in Path(f"/proc/{host.pid}/net/tcp").read_text().splitlines()[1:]]
    udp = [line.split() for line in Path(f"/proc/{host.pid}/net/udp").read_text().splitlines()[1:]]
    return {fields[1] for fields in lines if fields[3] == "0A"} | {fields[1] for fields in udp}


def test_nodes_listen_only_where_they_are_told_to(node: Node, cluster: Cluster, project: Path) -> None:
    host = cluster.hosts[0]
    before = listening(host)
    here = socket.inet_aton(host.address)[::-1].hex().upper()
    receiver = RelayCall(node, "~/orch-work", "~/orch-work/data/listening", hash_tree(project).entries)
    receiver.listen([host.address])
    assert {each.partition(":")[0] for each in listening(host) - before} == {here}
    receiver.close()
    until(lambda: listening(host) == before, 10)
    call = node.call(AskFacts(probe=True))
    call.answer(Clock.from_wire, 30)
    call.answer(NodeFacts.from_wire, 30)
    assert listening(host) == before
    call.channel.write(wire.json_frame({"listen": [host.address], "master_port": 29400}))
    assert call.answer(Listening.from_wire, 30).master == "ok"
    assert {each.partition(":")[0] for each in listening(host) - before} == {here}
    call.channel.close()


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> parts.Records:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return parts.Records(str(tmp_path / "work"), str(tmp_path / "data"))


def test_a_part_is_written_through_no_link(records: parts.Records, tmp_path: Path) -> None:
    data, victim = tmp_path / "data", tmp_path / "authorized_keys"
    data.mkdir()
    victim.write_text("a key\n")
    part = parts.Part(str(data), ["file", "file", 0o644, 4, hashlib.sha256(b"text").hexdigest()], records)
    for plant in (os.symlink, os.link):
        plant(victim, part.partial)
        with pytest.raises(Refused, match="'file': its partial file has been replaced by a"):
            part.complete() or part.write(0, b"text")
        Path(part.partial).unlink()
    assert victim.read_text() == "a key\n"
    # Without the secret, nobody else knows the name of a part.
    first = Path(part.partial).name
    (Path(paths.state_dir()) / "secret").unlink()
    assert first != Path(parts.Part(str(data), ["file", "file", 0o644, 4, part.sha], records).partial).name


def test_equal_files_in_one_folder_have_a_part_each(records: parts.Records, tmp_path: Path) -> None:
    data, content = tmp_path / "data", os.urandom(1_000_000)
    entries = [[name, "file", 0o644, len(content), hashlib.sha256(content).hexdigest()] for name in ("a", "b")]
    broken = parts.Part(str(data), entries[0], records)
    broken.write(0, content[:600_000])
    broken.close()
    for entry in entries:
        part = parts.Part(str(data), entry, records)
        assert not part.complete()
        part.write(0, content)
        assert part.finish()
    assert (data / "a").read_bytes() == content and (data / "b").read_bytes() == content


def test_what_is_installed_is_what_was_verified(records: parts.Records, tmp_path: Path) -> None:
    data, content = tmp_path / "data", os.urandom(100_000)
    part = parts.Part(str(data), ["a", "file", 0o644, len(content), hashlib.sha256(content).hexdigest()], records)
    part.write(0, content[:50_000])
    with Path(part.partial).open("ab") as somebody:
        somebody.write(b"x" * 90_000)
    part.write(50_000, content[50_000:])
    assert not part.finish() and list(data.iterdir()) == []


def test_a_host_is_free_as_soon_as_its_run_has_ended(node: Node, cluster: Cluster, project: Path) -> None:
    host = cluster.hosts[0]
    # There are more runs than are kept, so that there is something to remove at the end.
    for number in range(25):
        (host.home / ".orch" / "node1" / "runs" / f"0{number:02}" / "attempt1").mkdir(parents=True, exist_ok=True)
    for _ in range(2):
        asked = bare.request(node, project, ["true"])
        began = time.monotonic()
        for _ in bare.start(node, asked).frames(20):
            continue
        assert time.monotonic() - began < 5.0
