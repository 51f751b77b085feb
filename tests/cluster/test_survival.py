"""What a run survives (a dead control process, broken links, lost hosts), and how a run fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cuts import wrong_lines
from benchmarks.faults import CELLS, Case, Cell, broken
from tests.conftest import ROOT, Orch
from tests.namespaces import Cluster, NodeHost, require
from tests.waiting import heard, rest, until

pytestmark = [pytest.mark.cluster, pytest.mark.torch]

TICKS = """
import os, time
print("up", flush=True)
for number in range(int(os.environ.get("TICKS", "60"))):
    print("tick", number, flush=True)
    time.sleep(0.1)
"""
# The rest of benchmarks/faults.py takes as long again; these cells cover each way that differs.
QUICK = (
    "SIGHUP to orch",
    "SIGKILL to one torchrun",
    "SIGKILL to supervisor and torchrun",
    "SIGKILL to one sshd session",
    "all processes of one host killed",
    "disk of one host full",
    "others hang in a collective",
)


@pytest.fixture
def ticks(orch: Orch) -> str:
    """A script that ticks for six seconds."""
    (orch.folder / "ticks.py").write_text(TICKS)
    return "ticks.py"


@pytest.mark.parametrize("name", QUICK)
def test_faults(cluster: Cluster, tmp_path: Path, name: str) -> None:
    (cell,) = (cell for cell in CELLS if cell.name == name)
    assert isinstance(cell, Cell)
    outcome = broken(cluster, cell, tmp_path)
    assert outcome.ok, f"exit {outcome.exit_code}, {outcome.left} left\n{outcome.seen}"


def test_no_line_is_lost_or_doubled_when_a_link_breaks(cluster: Cluster, orch: Orch) -> None:
    assert wrong_lines(cluster, orch.folder, lines=100_000, cuts=2, each=(7.0, 9.0), seconds=15.0) == []


def test_attach_goes_on_where_the_killed_process_stopped(orch: Orch, ticks: str, marked: Any) -> None:
    with (orch.folder / "first").open("wb") as out:
        process = subprocess.Popen(orch.argv("run", ticks), cwd=orch.folder, env=orch.env, stdout=out, stderr=out)
    until(lambda: "[node3:2] tick 5\n" in (orch.folder / "first").read_text(), 60)
    process.kill()
    process.wait()
    run_id = orch.run_folder().name
    assert len(marked()) == 6
    state = json.loads(orch("ps", "--json").stdout)
    assert (state["run_id"], state["state"], state["nodes"]) == (run_id, "running", ["node1", "node2", "node3"])
    attached = orch("attach", run_id)
    assert attached.returncode == 0, attached.stderr
    both = (orch.folder / "first").read_text() + attached.stdout
    for rank in range(3):
        # The killed process may have recorded a piece that it did not get to print; the record decides.
        record = (orch.run_folder() / "logs" / f"node{rank + 1}" / f"rank{rank}.stdout.log").read_text()
        assert record == "up\n" + "".join(f"tick {number}\n" for number in range(60))
        printed = [line for line in both.splitlines() if line.startswith(f"[node{rank + 1}:{rank}] tick")]
        assert len(printed) == len(set(printed)) >= 59
    assert marked() == []


def test_a_reader_that_goes_leaves_the_run_going(orch: Orch, ticks: str, marked: Any) -> None:
    process = subprocess.Popen(
        orch.argv("run", "--env", "TICKS=6000", ticks),
        cwd=orch.folder,
        env=orch.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    # As "| head -1" does.
    assert process.stdout.readline().endswith("] up\n")
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(30) == 141
    run_id = orch.run_folder().name
    assert said.endswith(
        f"error: nobody reads the output any more (as after | head); run {run_id} goes on → "
        f"orch attach {run_id} takes it over, orch stop {run_id} ends it\n"
    )
    assert "Traceback" not in said and len(marked()) == 6
    # The same where nobody reads stderr, either, and for a verb without a run.
    pipes = {"cwd": orch.folder, "env": orch.env, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    for words in (["attach"], ["logs", "-f"], ["ps"]):
        with subprocess.Popen(orch.argv(*words), text=True, **pipes) as other:  # type: ignore[call-overload]
            other.stdout.close()
            assert other.wait(30) == 141, words
    assert len(marked()) == 6
    assert orch("stop", run_id).stdout == f"stopped {run_id} on node1, node2, node3\n"
    assert marked() == []


def test_a_detached_run_is_listed_read_and_stopped(orch: Orch, ticks: str, marked: Any) -> None:
    refused = orch("run", "--detach", "--max-restarts", "1", ticks)
    assert refused.returncode == 2 and "leave --detach out" in refused.stderr
    started = orch("run", "--detach", "--env", "TICKS=6000", ticks)
    assert started.returncode == 0, started.stderr
    run_id = started.stdout.strip()
    assert f"orch attach {run_id}" in started.stderr
    until(lambda: "tick 70\n" in orch("logs", "--rank", "1").stdout, 60)
    lines = orch("logs", run_id, "--node", "node3").stdout.splitlines()
    assert lines[:2] == ["[node3:2] up", "[node3:2] tick 0"]
    all_of_it = orch("logs", run_id, "--rank", "0").stdout.splitlines()
    late = orch("logs", run_id, "--rank", "0", "--since", "3s").stdout.splitlines()
    assert 20 < len(late) < len(all_of_it) and "[node1:0] up" not in late
    assert (
        orch("logs", run_id, "--rank", "7").stderr.startswith("looking")
        and "ranks 0 to 2" in orch("logs", run_id, "--rank", "7").stderr
    )
    listed = orch("ps").stdout.splitlines()
    assert listed[0].split()[:2] == ["run", "workload"]
    assert run_id in listed[1] and "node[1-3]" in listed[1] and "running" in listed[1]
    assert "tick" in listed[1]
    assert orch("stop", run_id).stdout == f"stopped {run_id} on node1, node2, node3\n"
    assert marked() == []
    assert orch("ps").stdout.startswith("no run is active")
    ended = orch("ps", "--all").stdout
    assert run_id in ended and "stopped" in ended
    attached = orch("attach", run_id)
    assert attached.returncode == 130 and "[node1:0] tick 0" in attached.stdout


def test_sigquit_leaves_the_run_going(orch: Orch, ticks: str, marked: Any) -> None:
    process = orch.popen("run", "--env", "TICKS=6000", ticks)
    until(lambda: len(marked()) == 6, 60)
    process.send_signal(signal.SIGQUIT)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0 and "the run goes on" in output
    assert len(marked()) == 6
    assert orch("stop", "--all").returncode == 0
    assert marked() == []


def test_a_run_may_end_with_its_control_machine(orch: Orch, ticks: str, marked: Any) -> None:
    process = orch.popen("run", "--on-disconnect", "stop:10", "--env", "TICKS=6000", ticks)
    # The run outlives the ten seconds as long as its control machine is there.
    heard(process, "tick 130\n")
    assert len(marked()) == 6
    process.kill()
    process.communicate()
    until(lambda: marked() == [], 25)
    assert "stopped" in orch("ps", "--all").stdout


def test_a_failure_ends_the_others_within_five_seconds(
    orch: Orch, cluster: Cluster, marked: Callable[[], list[Any]]
) -> None:
    script = """
import torch, torch.distributed as dist, time
dist.init_process_group("gloo")
for step in range(1000):
    if step == 20 and dist.get_rank() == 1:
        print("failing at", time.time(), flush=True)
        raise ValueError("no such thing")
    dist.all_reduce(torch.ones(1))
    time.sleep(0.05)
"""
    (orch.folder / "bad.py").write_text(script)
    process = orch.popen("run", "bad.py")
    output = heard(process, "failing at")
    until(lambda: marked() == [], 30)
    assert time.time() - float(output.rpartition("failing at ")[2]) < 5
    output += rest(process)
    assert process.returncode == 1
    report = output[output.index("collecting") :]
    assert "failed: rank 1 on node2" in report and "cause: ValueError: no such thing" in report
    assert report.index("raise ValueError") < report.index("failed: rank 1")
    assert "closed by peer" not in report


@pytest.fixture(scope="module")
def four() -> Iterator[Cluster]:
    """Three hosts and a spare."""
    require()
    with Cluster(4, python=sys.executable, visible=[ROOT]) as made:
        yield made


def test_a_spare_takes_a_lost_hosts_place(four: Cluster, tmp_path: Path) -> None:
    """Cut the master's host off for good; once it is back, nothing of the lost attempt lives on."""
    victim, nodes = "node1", ["node1", "node2", "node3"]
    (tmp_path / "hosts.yaml").write_text(four.hosts_yaml(spares=["node4"]))
    orch = Orch(tmp_path, {**four.control_env(), "PYTHONPATH": str(ROOT)})
    words = ["run", "--nodes", ",".join(nodes), "--max-restarts", "2", "--node-timeout", "10", "train", "--"]
    process = orch.popen(*words, "--dataset", "digits", "--epochs", "6")
    host = four[victim]
    try:
        output = heard(process, "Epoch 2/6")
        host.cut()
        output += rest(process)
        assert process.returncode == 0, output
        others = [name for name in nodes if name != victim]
        assert f"{victim}: lost" in output
        assert f"attempt 2 on {', '.join([*others, 'node4'])}" in output
        assert "Resuming from epoch" in output and output.count("Epoch 1/6") == 1
        assert "Epoch 6/6" in output
        assert (orch.run_folder() / "node4" / "snapshot.pt").is_file()
        (events,) = (orch.events("carried"),)
        assert [event["node"] for event in events][-1:] == ["node4"]
    finally:
        host.restore()
    until(lambda: not _of_attempt(host, "1"), 60)
    assert [each for other in four.hosts for each in other.processes() if "ORCH_RUN_ID" in each.environ] == []


def _of_attempt(host: NodeHost, attempt: str) -> list[Any]:
    return [each for each in host.processes() if each.environ.get("ORCH_ATTEMPT") == attempt]


def test_leftovers_are_listed_refused_and_ended(orch: Orch, cluster: Cluster, ticks: str, marked: Any) -> None:
    """With supervisor, torchrun and control process killed at once, only the mark tells whose the worker is."""
    case = Case(cluster, orch.folder)
    case.start("--nodes", "node2", "--env", "TICKS=6000", ticks, ranks=1)
    assert case.process
    run_id = orch.run_folder().name
    pids = [case.process.pid, case.supervisor("node2"), case.torchrun("node2").pid_outside]
    # All are stopped first, so that none has time to react to the end of another.
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            os.kill(pid, number)
    case.process.wait()
    until(lambda: len(marked()) == 1, 10)
    listed = orch("ps").stdout
    assert run_id in listed and "left over (1 process)" in listed
    refused = orch("run", "--nodes", "node2", ticks)
    assert refused.returncode == 3
    assert f"node2: processes of run {run_id} are left over" in refused.stderr
    assert f"orch stop {run_id}" in refused.stderr
    stopped = orch("stop", run_id)
    assert stopped.stdout == f"stopped {run_id} on node2\n"
    assert "ended 1 process that no supervisor watched" in stopped.stderr
    assert marked() == []


def test_a_cut_control_network_leaves_the_run_going(orch: Orch, cluster: Cluster, ticks: str, marked: Any) -> None:
    """If every host is silent, the fault is this machine's: no node counts as lost, and nothing is stopped."""
    process = orch.popen("run", "--node-timeout", "10", "--env", "TICKS=220", ticks)
    output = heard(process, "tick 5\n")
    cluster.cut_control()
    try:
        run = next((cluster["node1"].home / ".orch/node1/runs").glob(f"{orch.run_folder().name}/attempt1/logs"))
        (log,) = run.glob("*/attempt_0/0/stdout.log")
        until(lambda: "tick 150\n" in log.read_text(), 60)
        assert len(marked()) == 6
    finally:
        cluster.restore_control()
    output += rest(process)
    assert process.returncode == 0, output
    assert "lost, no answer" not in output and "node2: connected again" in output
    for rank in range(3):
        ticked = [line.split()[-1] for line in output.splitlines() if f":{rank}] tick" in line]
        assert ticked == [str(number) for number in range(220)]


def test_a_host_that_is_off_keeps_nobody_from_stopping_the_others(
    orch: Orch, cluster: Cluster, ticks: str, marked: Any
) -> None:
    assert orch("run", "--detach", "--nodes", "node1,node2", "--env", "TICKS=6000", ticks).returncode == 0
    cluster["node3"].cut()
    try:
        listed = orch("ps", "--connect-timeout", "3")
        assert listed.returncode == 4
        assert "node[1-2]" in listed.stdout and "node3: " in listed.stderr
        stopped = orch("stop", "--all", "--connect-timeout", "3")
        assert stopped.returncode == 4
        assert stopped.stdout.endswith(" on node1, node2\n") and "node3: " in stopped.stderr
    finally:
        cluster["node3"].restore()
    assert marked() == []


COUNTS = """
import os, pathlib, time
file = pathlib.Path("count")
start = int(file.read_text()) if file.exists() else 0
print("attempt", os.environ["ORCH_ATTEMPT"], "starts at", start, flush=True)
for number in range(start, 40):
    if os.environ["RANK"] == "0":
        pathlib.Path("count.part").write_text(str(number))
        os.replace("count.part", "count")
        print("count", number, flush=True)
    time.sleep(0.2)
"""


def test_a_snapshot_that_only_the_lost_master_had_is_carried_to_the_next(four: Cluster, tmp_path: Path) -> None:
    (tmp_path / "hosts.yaml").write_text(four.hosts_yaml(spares=["node4"]))
    (tmp_path / "counts.py").write_text(COUNTS)
    orch = Orch(tmp_path, {**four.control_env(), "PYTHONPATH": str(ROOT)})
    words = ["run", "--max-restarts", "1", "--node-timeout", "6", "--collect-every", "1", "counts.py"]
    process = orch.popen(*words)
    try:
        output = heard(process, "count 5\n")
        collected = orch.run_folder() / "node1" / "count"
        until(lambda: collected.exists() and int(collected.read_text()) >= 5, 60)
        had = int(collected.read_text())
        four["node1"].cut()
        output += rest(process)
    finally:
        four["node1"].restore()
    assert process.returncode == 0, output
    begun = {
        line.split("]")[0] + "]": int(line.split()[-1])
        for line in output.splitlines()
        if "attempt 2 starts" in line
    }
    assert begun.keys() == {"[node2:0]", "[node3:1]", "[node4:2]"}
    assert begun["[node2:0]"] == begun["[node4:2]"] >= had
    assert "node2: gets 1 file that node1 wrote" in output
    assert (orch.run_folder() / "node2" / "count").read_text() == "39"
    until(lambda: not _of_attempt(four["node1"], "1"), 60)
