"""Runs as jobs of a real Slurm: Debian's, on a login host and three compute hosts."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import DATA, ROOT, Orch
from tests.namespaces import require
from tests.namespaces.slurm import SlurmCluster, missing
from tests.waiting import heard, rest, until

pytestmark = [pytest.mark.cluster, pytest.mark.torch]

TICKS = """
import os, time
print("up", flush=True)
for number in range(int(os.environ.get("TICKS", "60"))):
    print("tick", number, flush=True)
    time.sleep(0.1)
"""
# Counts in a snapshot, and adds a second's worth after each start; goes on until it has ten.
COUNTS = """
import os, signal, sys, time
rank, attempt = int(os.environ["RANK"]), os.environ["ORCH_ATTEMPT"]
def leave(*_):
    # Slurm and the supervisor may both send the signal.
    open("left.txt", "w").write(f"left by attempt {attempt}\\n")
    sys.exit(143)
signal.signal(signal.SIGTERM, leave)
count = int(open("snapshot.txt").read()) if os.path.exists("snapshot.txt") else 0
print(f"attempt {attempt} on {os.environ['ORCH_NODE']} goes on from {count}", flush=True)
while count < int(os.environ.get("MOST", "10")):
    time.sleep(0.3)
    count += 1
    open("snapshot.tmp", "w").write(str(count))
    os.rename("snapshot.tmp", "snapshot.txt")
    print("count", count, flush=True)
    if count == 3 and os.environ.get("FAIL") == str(rank):
        raise ValueError("three is too many")
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[SlurmCluster]:
    """A login host and three compute hosts with Slurm."""
    require()
    if reason := missing():
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with SlurmCluster(3, python=sys.executable, visible=[ROOT, *([DATA] if DATA.is_dir() else [])]) as made:
        yield made


@pytest.fixture
def orch(slurm: SlurmCluster, tmp_path: Path) -> Iterator[Orch]:
    """``orch`` for the cluster. Stops the runs that a failed test leaves behind."""
    made = Orch(tmp_path, {**slurm.cluster.control_env(), "PYTHONPATH": str(ROOT)})
    asking(made, slurm)
    for name, text in (("ticks.py", TICKS), ("counts.py", COUNTS)):
        (tmp_path / name).write_text(text)
    yield made
    if slurm.queue():
        made("stop", "--all", "--grace", "0")
        slurm.login.run("scancel", "--user=root", env=slurm.env)


def asking(orch: Orch, slurm: SlurmCluster, **keys: Any) -> None:
    """Write the hosts file."""
    of_slurm = {"login": f"root@{slurm.login.address}", "nodes": 3, "workdir": "~/work", **keys}
    text = {"scheduler": {"slurm": of_slurm}, "defaults": {"python": sys.executable}, "grace": 5}
    (orch.folder / "hosts.yaml").write_text(json.dumps(text))


def marked(slurm: SlurmCluster) -> list[Any]:
    return [each for host in slurm.cluster.hosts for each in host.processes() if "ORCH_RUN_ID" in each.environ]


def test_train_runs_to_its_end_and_a_printed_script_trains_to_the_same_result(
    orch: Orch, slurm: SlurmCluster
) -> None:
    words = ("train", "--dataset", "digits", "--epochs", "1")
    ran = orch("run", *words)
    assert ran.returncode == 0, ran.stderr
    assert "submitting: job " in ran.stderr
    folder = orch.run_folder()
    assert json.loads((folder / "plan.json").read_text())["world_size"] == 3
    rows = (folder / "c1" / "metrics.jsonl").read_text()
    assert rows.count("\n") == 1
    assert [(folder / name / "snapshot.pt").exists() for name in ("c1", "c2", "c3")] == [True] * 3
    assert [event["exit_code"] for event in orch.events("finished")] == [0, 0, 0]
    assert not slurm.queue() and not marked(slurm)
    ended = json.loads(orch("ps", "--all", "--json").stdout.splitlines()[-1])
    assert (ended["run_id"], ended["state"], ended["nodes"]) == (folder.name, "ok", ["c1", "c2", "c3"])
    printed = orch("plan", *words, "--format", "sbatch")
    assert printed.returncode == 0, printed.stderr
    (slurm.login.home / "job.sh").write_text(printed.stdout)
    submitted = slurm.login.run("sbatch", "--parsable", "--output=out.txt", "job.sh", env=slurm.env)
    assert submitted.returncode == 0, submitted.stderr
    # sbatch --wait would look every half minute.
    until(lambda: not slurm.queue(), 40)
    text = (slurm.login.home / "out.txt").read_text()
    assert slurm.state(submitted.stdout.strip()) == "COMPLETED", text
    same = "Parameters are the same on all 3 ranks: "
    (expected,) = (line.partition(same)[2] for line in ran.stdout.splitlines() if same in line)
    assert f"[default0]:{same}{expected}\n" in text


def test_no_line_is_lost_when_the_connection_breaks_and_the_process_is_killed(
    orch: Orch, slurm: SlurmCluster
) -> None:
    process = orch.popen("run", "ticks.py", "--env", "API_KEY=SECRET")
    heard(process, "tick 5")
    slurm.login.kill_sshd_sessions()
    heard(process, "connected again")
    process.kill()
    rest(process)
    run_id = orch.run_folder().name
    listed = json.loads(orch("ps", "--json").stdout)
    assert (listed["run_id"], listed["state"], listed["nodes"]) == (run_id, "running", ["c1", "c2", "c3"])
    attached = orch("attach", run_id)
    assert attached.returncode == 0, attached.stderr
    for rank in range(3):
        record = (orch.run_folder() / "logs" / f"c{rank + 1}" / f"rank{rank}.stdout.log").read_text()
        assert record == "up\n" + "".join(f"tick {number}\n" for number in range(60))
    assert "SECRET" not in slurm.login.run("sh", "-c", "cat work/.orch/slurm/*/*.json").stdout
    logs = orch("logs", run_id, "--rank", "1")
    assert logs.stdout.count("[c2:1] tick") == 60 and "[c1:0]" not in logs.stdout


def test_a_job_that_waits_shows_why_and_a_stop_leaves_nothing(orch: Orch, slurm: SlurmCluster) -> None:
    asking(orch, slurm, options=["--exclusive"])
    first = orch("run", "--detach", "ticks.py", "--env", "TICKS=3000")
    assert first.returncode == 0, first.stderr
    until(lambda: len(marked(slurm)) >= 6, 30)
    waiting = orch.popen("run", "ticks.py")
    assert "waits: Resources (enough nodes are not free yet)" in heard(waiting, "waits: Resources")
    listed = [json.loads(line) for line in orch("ps", "--json").stdout.splitlines()]
    assert [each["state"] for each in listed] == ["running", "waiting"]
    waiting.send_signal(signal.SIGINT)
    assert "cancelled the job" in rest(waiting)
    assert waiting.returncode == 130
    second = orch("run", "--detach", "ticks.py").stdout.strip()
    assert orch("stop", second).returncode == 0
    stopped = orch("stop", first.stdout.strip())
    assert stopped.stdout == f"stopped {first.stdout.strip()} on c1, c2, c3\n"
    assert not slurm.queue() and not marked(slurm)
    assert orch("stop", "--all").stdout == "nothing to stop\n"


def test_the_exception_of_a_rank_is_explained_and_the_job_starts_again(orch: Orch, slurm: SlurmCluster) -> None:
    failed = orch("run", "counts.py", "--env", "FAIL=1", "--max-restarts", "1")
    assert failed.returncode == 0, failed.stderr
    assert "failed: rank 1 on c2 ended with exit code 1" in failed.stderr
    assert "cause: ValueError: three is too many" in failed.stderr
    assert "remedy: read the traceback in the rank's log" in failed.stderr
    assert "attempt 2 on c1, c2, c3" in failed.stderr
    assert "[c2:1] attempt 2 on c2 goes on from 3" in failed.stdout
    assert (orch.run_folder() / "c2" / "snapshot.txt").read_text() == "10"
    assert not slurm.queue() and not marked(slurm)


def test_a_job_whose_node_dies_goes_on_from_the_snapshot(orch: Orch, slurm: SlurmCluster) -> None:
    process = orch.popen("run", "counts.py", "--nodes", "2", "--max-restarts", "1", "--env", "MOST=14")
    heard(process, "[c2:1] count 5")
    slurm.nodes[1].kill()
    try:
        printed = rest(process)
    finally:
        slurm.power_on(slurm.nodes[1])
        slurm.await_nodes(3)
    assert process.returncode == 0, printed
    assert "attempt 2 on c1, c3" in printed
    # The second node of the job is another machine, and it has what the dead one wrote.
    (line,) = (line for line in printed.splitlines() if "attempt 2 on c3 goes on from" in line)
    assert int(line.rpartition(" ")[2]) >= 5
    assert (orch.run_folder() / "c3" / "snapshot.txt").read_text() == "14"


def test_before_the_time_limit_ranks_write_a_last_snapshot(orch: Orch, slurm: SlurmCluster) -> None:
    asking(orch, slurm, nodes=1, time="5", options=["--signal=TERM@45"])
    process = orch.popen("run", "counts.py", "--env", "MOST=600")
    heard(process, "[c1:0] count 3")
    # Slurm may send the signal a minute too early: the limit gets near once the rank can hear it.
    job = slurm.queue().split()[0]
    shortened = slurm.login.run("scontrol", "update", f"JobId={job}", "TimeLimit=1", env=slurm.env)
    assert shortened.returncode == 0, shortened.stderr
    printed = rest(process)
    assert process.returncode == 1, printed
    assert "failed: Slurm ended job" in printed
    assert "go on with --resume" in printed
    assert (orch.run_folder() / "c1" / "left.txt").read_text() == "left by attempt 1\n"
    assert not slurm.queue()


def test_a_job_that_slurm_refuses_is_one_line(orch: Orch, slurm: SlurmCluster) -> None:
    asking(orch, slurm, partition="none-such")
    refused = orch("run", "ticks.py")
    assert refused.returncode == 3
    assert refused.stderr.splitlines()[-1] == (
        f"error: {slurm.login.address}: sbatch fails: Batch job submission failed: Invalid partition name specified "
        "→ correct scheduler.slurm.partition; on the login node, sinfo -s shows what there is"
    )
    examined = orch("doctor")
    assert examined.returncode == 3
    assert "fail: " in examined.stdout and "Invalid partition name specified → correct" in examined.stdout
    assert not (slurm.login.home / "work" / ".orch" / "slurm" / orch.run_folder().name).exists()


def test_the_login_node_itself_submits_without_ssh_and_pruning_spares_what_a_job_uses(
    orch: Orch, slurm: SlurmCluster
) -> None:
    asking(orch, slurm, login="local", nodes=2)
    folder = slurm.login.home / "here"
    folder.mkdir()
    for name in ("hosts.yaml", "ticks.py"):
        (folder / name).write_text((orch.folder / name).read_text())

    def there(*words: str) -> str:
        command = ["env", "--chdir=here", f"PYTHONPATH={ROOT}", sys.executable, "-m", "orchestrator", *words]
        done = slurm.login.run(*command, env=slurm.env, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run_id = there("run", "--detach", "ticks.py", "--env", "TICKS=30").strip()
    (folder / "more.py").write_text("")
    there("sync", "--prune", "--keep", "1", "--runs")
    assert "[c2:1] tick 29\n" in there("attach", run_id)
    assert json.loads(there("ps", "--all", "--json").splitlines()[-1])["state"] == "ok"
    assert not slurm.queue() and not marked(slurm)
