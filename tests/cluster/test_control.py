"""Trouble on the control machine: few open files, a full disk, a second orch, an outage of its network.

Also stops, log limits, and who takes part in a later attempt.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator import errors
from orchestrator.cli.program import raise_open_files
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.inventory.parsing import parse_inventory
from orchestrator.core.inventory.target import Settings
from orchestrator.core.run.actions import Prepare
from orchestrator.core.run.output import Output
from orchestrator.core.run.policy import Grace, Policy, grace_of
from orchestrator.core.run.result import fold
from orchestrator.local.run_folder import MOST_OPEN, RunFolder
from orchestrator.node.host import paths
from orchestrator.node.run import logcut
from orchestrator.node.run.follow import Log
from orchestrator.node.store import prune
from orchestrator.operations.run.launching import Lineup
from orchestrator.operations.run.recording import Recording
from orchestrator.operations.run.restarting import AttemptErrands
from orchestrator.protocol.run import Follow, ListRuns, RunsHere, Started
from orchestrator.remote.node import Node
from orchestrator.remote.node_client import SshNodeClient
from orchestrator.ui.display import Display
from tests import bare
from tests.conftest import Orch
from tests.engines import FakeNode, MemoryRecorder, fake_run, joined, started
from tests.history import happened
from tests.hostile import Link, framed
from tests.namespaces import Cluster
from tests.waiting import until

RUN = "20261121-042040-7f3a"


def output(rank: int, data: bytes = b"x\n", **more: Any) -> Output:
    return Output("gpu1", rank, rank, "stdout", data, **more)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[RunFolder]:
    made = RunFolder.open(tmp_path, RUN)
    made.begin(["gpu1"], 1)
    yield made
    made.close()


def open_logs(folder: Path) -> int:
    links = [each for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    return sum(1 for each in links if each.readlink().is_relative_to(folder))


def test_the_logs_of_many_ranks_take_few_files(folder: RunFolder) -> None:
    for turn in range(3):
        for rank in range(512):
            folder.log(output(rank, b"%d %d\n" % (turn, rank)))
    assert open_logs(folder.path / "logs") <= MOST_OPEN
    for rank in (0, 300, 511):
        log = folder.path / "logs" / "gpu1" / f"rank{rank}.stdout.log"
        assert log.read_text() == "".join(f"{turn} {rank}\n" for turn in range(3))
    raise_open_files()


def test_a_full_disk_here_leaves_the_run_going(folder: RunFolder) -> None:
    (folder.path / "logs" / "gpu1").mkdir(parents=True)
    (folder.path / "logs" / "gpu1" / "rank0.stdout.log").symlink_to("/dev/full")
    node = FakeNode("gpu1", output(0))
    _, run = fake_run(Policy(), [node], heard=Recording(folder, "train", Display()))
    with pytest.raises(errors.CannotRecord) as caught:
        run()
    assert node.asked == ["start"] and caught.value.exit_code == 6
    assert os.strerror(errno.ENOSPC) in str(caught.value) and f"make room here, then: orch attach {RUN}" in str(
        caught.value
    )


def test_a_second_orch_follows_without_writing(folder: RunFolder, tmp_path: Path) -> None:
    folder.log(output(0))
    second = RunFolder.open(tmp_path, RUN)
    assert folder.writing and not second.writing
    assert [event.KIND for event in second.events] == ["planned"]
    second.log(output(0))
    second.record(happened(1.0, "attached", None, {}))
    second.close()
    folder.log(output(0))
    assert (folder.path / "logs" / "gpu1" / "rank0.stdout.log").read_text() == "x\nx\n"
    assert "attached" not in (folder.path / "events.jsonl").read_text()
    folder.close()
    third = RunFolder.open(tmp_path, RUN)
    assert third.writing
    third.close()


def test_what_a_node_left_out_is_said_and_counted(folder: RunFolder, tmp_path: Path) -> None:
    worker = {"rank": 0, "local_rank": 0, "pid": 1, "logs": "logs/x", "restart": 0}
    folder.record(happened(1.0, "worker", "gpu1", worker))
    folder.log(output(0, b"", skipped=1000))
    folder.log(output(0, b"tail\n"))
    log = folder.path / "logs" / "gpu1" / "rank0.stdout.log"
    assert log.read_text() == "\n[orch: 1000 bytes are not kept]\ntail\n"
    folder.close()
    again = RunFolder.open(tmp_path, RUN)
    assert again.offsets()["gpu1"]["0.stdout"] == 1005
    again.close()


def test_whoever_answers_an_attach_was_not_lost() -> None:
    planned = happened(0.0, "planned", None, {"nodes": ["gpu1", "gpu2"], "attempt": 1})
    outage = [happened(1.0, "node_lost", name, {"reason": "no answer for 30 s"}) for name in ("gpu1", "gpu2")]
    assert len(fold([planned, *outage]).failures) == 2
    result = fold([planned, *outage, happened(2.0, "attached", None, {"nodes": ["gpu1"]})])
    assert [failure.node for failure in result.failures] == ["gpu2"] and result.lost == ("gpu2",)
    assert result.nodes["gpu1"].state == "running"


def test_a_try_to_connect_may_take_as_long_as_the_first_one() -> None:
    tried: list[float] = []

    class Slow(Link):
        settings = Settings(connect_timeout=17.0)

        def reopen(self, timeout: float) -> None:
            tried.append(timeout)
            raise errors.ConnectTimeout("slow", host="gpu7")

    node = Node(Slow(b""))  # type: ignore[arg-type]
    with pytest.raises(errors.ConnectTimeout):
        SshNodeClient(node, Follow(run_id=RUN), 30.0).reconnect()
    assert 16.0 < tried[0] <= 17.0


def test_how_long_ranks_may_take_to_end() -> None:
    assert grace_of(parse_inventory("hosts: {a: {}}").grace) == Grace(30.0, 3.0)
    assert grace_of(parse_inventory("hosts: {a: {}}\ngrace: 90").grace) == Grace(90.0, 90.0)
    assert grace_of(parse_inventory("hosts: {a: {}}\ngrace: 90").grace, 0.0) == Grace(0.0, 0.0)


@pytest.mark.cluster
def test_a_checkpoint_written_on_a_stop_is_not_cut(node: Node, cluster: Cluster, project: Path) -> None:
    # The save takes longer than five seconds.
    script = "trap 'sleep 6; echo saved > saved; exit 0' TERM; echo ready; sleep 300 & wait"
    asked = bare.request(node, project, ["sh", "-c", script])
    heard = MemoryRecorder()
    engine = started(node, asked, heard)
    heard.said = lambda output: engine.stop("interrupted", 30.0) if b"ready" in output.data else None
    engine.run()
    assert "finished" in heard.kinds
    assert (cluster.hosts[0].home / "orch-work" / "runs" / "node1" / asked.run_id / "saved").exists()


@pytest.mark.cluster
def test_a_stop_gets_through_where_one_session_is_all_there_is(
    node: Node, cluster: Cluster, project: Path
) -> None:
    asked = bare.request(node, project, ["sleep", "300"])
    cluster.hosts[0].restart_sshd({"MaxSessions": "1"})
    try:
        with bare.connected(cluster) as alone:
            heard = MemoryRecorder()
            engine = started(alone, asked, heard)
            heard.when = lambda event: (
                engine.stop("interrupted", 1.0) if event.KIND == "torchrun_started" else None
            )
            engine.run()
    finally:
        cluster.hosts[0].restart_sshd({"MaxSessions": "10"})
    assert "stopping" in heard.kinds and "finished" in heard.kinds and "stop_failed" not in heard.kinds


@pytest.mark.cluster
def test_a_connection_that_breaks_in_the_middle_of_a_start_leaves_nothing(
    node: Node, cluster: Cluster, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = bare.request(node, project, ["sleep", "300"])

    def broken(value: object, where: str) -> Started:
        cluster.hosts[0].kill_sshd_sessions()
        raise errors.ConnectionLost("the connection broke", host="node1")

    monkeypatch.setattr(Started, "from_wire", broken)
    (refusal,) = started(node, asked, MemoryRecorder()).run().refusals
    assert isinstance(refusal, errors.ConnectionLost)
    assert not [each for each in cluster.hosts[0].processes() if each.argv[:1] == ["sleep"]]


@pytest.mark.cluster
def test_an_attempt_that_is_refused_ends_with_a_summary(orch: Orch, cluster: Cluster) -> None:
    """The second attempt cannot start on node2, because its folder is there already."""
    (orch.folder / "fail.py").write_text(
        "import os, shutil, sys\n"
        "tree = os.path.expanduser('~/orch-work')\n"
        "if os.environ['RANK'] == '1':\n"
        "    lib = os.path.expanduser('~/.orch/node2')\n"
        "    os.makedirs(lib + '/runs/' + os.environ['ORCH_RUN_ID'] + '/attempt2', exist_ok=True)\n"
        "sys.exit(3)\n"
    )
    result = orch("run", "--nodes", "node1,node2", "--max-restarts", "1", "fail.py")
    assert "exists on this node already" in result.stderr, result.stderr
    assert result.returncode != 0 and "outputs, logs and events: runs/" in result.stderr


def test_a_log_keeps_its_head_and_its_tail(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"".join(b"%09d\n" % n for n in range(400_000)))
    try:
        assert logcut.cut(str(log), 1 << 20)
    except OSError as error:
        pytest.skip(f"this disk cannot: {error}")
    assert log.stat().st_size == 4_000_000 and log.stat().st_blocks * 512 < 1 << 20
    assert not logcut.cut(str(log), 1 << 20)
    stream = Log("0.stdout", str(log), 0)
    pieces = []
    while piece := stream.read():
        pieces.append((stream.offset, piece))
        stream.offset += len(piece)
    kept = b"".join(piece for _, piece in pieces)
    assert kept.startswith(b"000000000\n") and kept.endswith(b"000399999\n") and b"\0" not in kept
    assert all(offset == 0 or piece in log.read_bytes() for offset, piece in pieces[:2])
    assert stream.offset == 4_000_000 and len(kept) < 1 << 20


@pytest.mark.cluster
def test_a_log_that_grows_too_long_is_cut_on_the_node_and_that_is_said(
    node: Node, cluster: Cluster, project: Path, tmp_path: Path
) -> None:
    script = "i=0; while [ $i -lt 40 ]; do seq 1 20000; i=$((i+1)); done; sleep 3; echo last"
    asked = bare.request(node, project, ["sh", "-c", script], log_limit=1 << 20)
    call = bare.start(node, asked)
    call.channel.close()
    until(lambda: node.ask(ListRuns(run_id=asked.run_id, ended=True), RunsHere.from_wire, 20).runs[0].ended, 30)
    work = cluster.hosts[0].home / "orch-work" / "runs" / "node1"
    log = work / f"{asked.run_id}.logs" / "attempt1" / "torchrun.log"
    assert log.stat().st_size > 4_000_000
    if log.stat().st_blocks * 512 > 2 << 20:
        pytest.skip("this disk cannot cut a file's middle out")
    made = RunFolder.open(tmp_path / "runs", asked.run_id)
    made.begin(["node1"], 1)
    heard = MemoryRecorder(said=made.log)
    joined(node, asked.run_id, heard).run()
    text = (made.path / "logs" / "node1" / "torchrun.log").read_text()
    assert text.startswith("1\n2\n") and text.endswith("\nlast\n") and "bytes are not kept]" in text
    assert made.offsets()["node1"]["torchrun"] == log.stat().st_size
    made.close()
    # A second follower that asks for the tail begins with the end of the log.
    heard = MemoryRecorder()
    joined(node, asked.run_id, heard, tail=1000).run()
    pieces = heard.outputs
    assert pieces[0].skipped > 3_000_000 and sum(len(each.data) for each in pieces) <= 1000


def test_runs_that_ended_long_ago_go_and_the_newest_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    workdir = str(tmp_path / "work")
    for number in range(25):
        run_id = f"2026{number:04}"
        for folder in (
            paths.attempt_dir(run_id, 1),
            paths.work_dir(workdir, run_id),
            paths.logs_dir(workdir, run_id, 1),
        ):
            Path(folder).mkdir(parents=True)
            (Path(folder) / "file").write_text("x")
        if number != 3:
            for path in Path(paths.run_dir(run_id)).rglob("*"):
                os.utime(path, (0, 0))
            os.utime(paths.run_dir(run_id), (0, 0))
    prune.forget_old(workdir)
    # The oldest are gone, but for the one written to lately; the newest twenty stay in any case.
    assert paths.run_ids() == ["20260003", *(f"2026{number:04}" for number in range(5, 25))]
    kept = sorted(path.name for path in Path(paths.work_dir(workdir, "x")).parent.iterdir())
    assert kept == sorted(name for run in paths.run_ids() for name in (run, f"{run}.logs"))


class Back(Link):
    """A connection to a host that answers again."""

    def reopen(self, timeout: float) -> None:
        return


def test_a_host_that_came_back_is_used_again_and_one_that_failed_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    idle = framed({"runs": [], "time": 1.0})
    hosts = tuple(Host(name, name) for name in ("gpu1", "gpu2", "gpu3"))
    links = [Back(idle), Back(idle), Link(idle)]
    for host, link in zip(hosts, links, strict=True):
        link.host = host
    nodes = tuple(Node(link) for link in links)  # type: ignore[arg-type]
    by_name = dict(zip(("gpu1", "gpu2", "gpu3"), links, strict=True))
    opened: Any = SimpleNamespace(
        hosts=hosts,
        spares=(),
        all_hosts=hosts,
        link=by_name.__getitem__,
        inventory=parse_inventory("hosts: {a: {}}"),
    )
    prepared: Any = SimpleNamespace(lineup=Lineup(hosts, nodes), plan=SimpleNamespace(run_id=RUN))
    errands = AttemptErrands(opened, Any, prepared, Grace(), Any, Display())  # type: ignore[arg-type]
    errands.nodes = {}
    planned = happened(0.0, "planned", None, {"nodes": ["gpu1", "gpu2", "gpu3"], "attempt": 1})
    lost = [happened(1.0, "node_lost", "gpu2", {"reason": "no answer"})]
    order = Prepare(2, ("gpu1", "gpu3"), 1, frozenset())
    lineup = errands._lineup(order, fold([planned, *lost]))
    assert lineup is not None and sorted(host.name for host in lineup.hosts) == ["gpu1", "gpu2", "gpu3"]
    assert lineup.new == ("gpu2",)
    # A host that does not answer is given up, which leaves too few.
    lost = [happened(1.0, "node_lost", "gpu3", {"reason": "no answer"})]
    order = Prepare(2, ("gpu1", "gpu2"), 1, frozenset())
    assert errands._lineup(order, fold([planned, *lost])) is None
    said = capsys.readouterr().err
    assert "in the place of gpu3: gpu7: gone" in said
    # The host is not tried a second time.
    assert errands._lineup(order, fold([planned, *lost])) is None
    assert "gpu7" not in capsys.readouterr().err
