"""What the login node makes of Slurm's words, and what a job's node makes of its request."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.node.host import bounded, paths
from orchestrator.node.run import dead_man_switch, presence, stop
from orchestrator.node.slurm import jobs, task, tidying
from orchestrator.protocol import frames
from orchestrator.protocol.events import Event, Finished, RankFailed, Stopping, to_line
from orchestrator.protocol.refusal import Refused
from orchestrator.protocol.run import Start
from orchestrator.protocol.slurm import CancelJob, JobRecord, JobsHere, ListJobs, Starts, Submit

RUN = "20261126-080000-abcd"


def start(rank: int, **changes: Any) -> Start:
    values = {
        "run_id": RUN,
        "attempt": 1,
        "node": f"node{rank}",
        "nodes": ("node0", "node1"),
        "node_rank": rank,
        "owner": "me@here",
        "workload": "train",
        "workdir": "~/work",
        "project": "project",
        "tree": "0" * 32,
        "overlays": ("1" * 32,),
        "cwd": ".",
        "argv": ("/envs/e1/bin/python", "--master_addr=@first@", "--log_dir=x/attempt@attempt@", "a b"),
        "env": {"TOKEN": "SECRET", "PLACE": "@first@"},
        "files": {"x/attempt@attempt@/config": "at @first@"},
        "first_rank": rank,
        "min_nodes": None,
        "nproc": 1,
        "grace": 5.0,
    }
    return Start(**{**values, **changes})


STARTS = Starts(starts=(start(0), start(1)), master="@first@", attempt="@attempt@")
RECORD = JobRecord(run_id=RUN, owner="me@here", workload="train", nodes=2, restarts=1, submitted=1.0)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A function that sets what a program of Slurm prints, with its exit code; returns the file of its arguments."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    program = tmp_path / "node.pyz"
    program.write_bytes(b"PK")
    monkeypatch.setattr(sys, "argv", [str(program)])

    def say(name: str, out: str = "", err: str = "", code: int = 0) -> Path:
        told = tmp_path / f"{name}.args"
        texts = {"out": out, "err": err}
        for kind, text in texts.items():
            (tmp_path / f"{name}.{kind}").write_text(text)
        file = programs / name
        file.write_text(
            f"#!/bin/sh\nprintf '%s\\n' \"$@\" > {told}\ncat {tmp_path}/{name}.out\n"
            f"cat {tmp_path}/{name}.err >&2\nexit {code}\n"
        )
        file.chmod(0o755)
        return told

    return say


def answered(answer: Callable[[Any, int], None], request: Any) -> dict[str, Any]:
    """Return the frame with which a verb answers."""
    read_end, write_end = os.pipe()
    answer(request, write_end)
    os.close(write_end)
    frame = frames.read_frame(read_end)
    os.close(read_end)
    assert frame is not None
    found: dict[str, Any] = json.loads(frame[1])
    return found


def submitted(slurm: Callable[..., Path], options: tuple[str, ...] = ("--nodes=2",)) -> tuple[Path, list[str]]:
    told = slurm("sbatch", "41;cluster\n")
    answer = answered(jobs.answer_submit, Submit(workdir="~/work", record=RECORD, starts=STARTS, options=options))
    assert answer["job_id"] == "41"
    return Path(answer["folder"]), told.read_text().splitlines()


def test_a_submitted_job_keeps_secrets_in_one_private_file(slurm: Callable[..., Path], tmp_path: Path) -> None:
    folder, words = submitted(slurm, ("--nodes=2", "--comment=$(x) ;y"))
    assert folder == tmp_path / "work" / ".orch" / "slurm" / RUN
    assert words == [
        "--parsable",
        "--nodes=2",
        "--comment=$(x) ;y",
        "--output",
        f"{folder}/slurm-%j.out",
        f"{folder}/job.sh",
    ]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    with_secret = [file.name for file in folder.iterdir() if b"SECRET" in file.read_bytes()]
    assert with_secret == ["starts.json"]
    assert stat.S_IMODE((folder / "starts.json").stat().st_mode) == 0o600
    assert (folder / "node.pyz").read_bytes() == b"PK"


def test_a_refused_job_leaves_nothing(slurm: Callable[..., Path], tmp_path: Path) -> None:
    slurm("sbatch", err="sbatch: error: invalid account\nsbatch: error: Batch job submission failed: No\n", code=1)
    request = Submit(workdir="~/work", record=RECORD, starts=STARTS, options=())
    with pytest.raises(Refused, match=r"^sbatch fails: Batch job submission failed: No$"):
        jobs.answer_submit(request, 1)
    assert list((tmp_path / "work" / ".orch" / "slurm").iterdir()) == []


def test_a_login_node_without_slurm_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Refused, match=r"^cannot start sbatch: No such file or directory$"):
        raise jobs.refused("sbatch", _no_answer(["sbatch"]))


def _no_answer(argv: list[str]) -> bounded.NoAnswer:
    try:
        bounded.run(argv, 5.0)
    except bounded.NoAnswer as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("out", "err", "code", "listed"),
    [
        ("41|PENDING|Resources\n", "", 0, ("PENDING", "Resources")),
        ("41|RUNNING|None\n", "", 0, ("RUNNING", "")),
        (
            "41|PENDING|Nodes required for job are DOWN, DRAINED|x\n",
            "",
            0,
            ("PENDING", "Nodes required for job are DOWN, DRAINED|x"),
        ),
        ("", "slurm_load_jobs error: Invalid job id specified\n", 1, None),
        ("41|TIMEOUT|TimeLimit\n", "", 0, None),
    ],
)
def test_jobs_are_listed_with_state_and_reason(
    slurm: Callable[..., Path], out: str, err: str, code: int, listed: tuple[str, str] | None
) -> None:
    folder, _ = submitted(slurm)
    slurm("squeue", out, err, code)
    here = JobsHere.from_wire(answered(jobs.answer_jobs, ListJobs(workdir="~/work", run_id=None, ended=False)))
    assert [(job.state, job.reason) for job in here.jobs] == ([] if listed is None else [listed])
    # The variables of a job that has ended are not kept.
    assert (folder / "starts.json").exists() == (listed is not None)


def test_a_job_is_described_by_its_newest_attempt(
    slurm: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (paths.SHARED_STATE, "ORCH_HOSTNAME"):
        monkeypatch.setenv(name, "")
    folder, _ = submitted(slurm)
    slurm("squeue", "41|RUNNING|None\n")
    (folder / "nodes.1").write_text("c1\nc2\n")
    (folder / "nodes.2").write_text("c3\nc2\n")
    attempt = folder / "node1" / "runs" / RUN / "attempt2"
    attempt.mkdir(parents=True)
    presence.begin(str(attempt))
    (job,) = JobsHere.from_wire(
        answered(jobs.answer_jobs, ListJobs(workdir="~/work", run_id=RUN, ended=True))
    ).jobs
    assert (job.attempt, job.names) == (2, ("c3", "c2"))
    assert [(part.attempt, part.state) for part in job.parts] == [(2, "running")]


def test_a_cancelled_job_does_not_start_again(slurm: Callable[..., Path]) -> None:
    folder, _ = submitted(slurm)
    told = slurm("scancel")
    assert answered(jobs.answer_cancel, CancelJob(workdir="~/work", run_id=RUN, kill=False)) == {"told": False}
    assert (folder / "stopped").exists() and not told.exists()
    assert answered(jobs.answer_cancel, CancelJob(workdir="~/work", run_id=RUN, kill=True)) == {"told": True}
    assert told.read_text() == "41\n"
    with pytest.raises(Refused, match="there is no run 20261126-0-0"):
        jobs.answer_cancel(CancelJob(workdir="~/work", run_id="20261126-0-0", kill=True), 1)


def test_pruning_keeps_what_jobs_will_use(slurm: Callable[..., Path]) -> None:
    folder, _ = submitted(slurm)
    slurm("squeue", "41|PENDING|Resources\n")
    used, ended = tidying.in_use("~/work")
    assert {"0" * 32, "1" * 32, "e1"} <= used and ended == set()
    slurm("squeue", err="squeue: error: Unable to contact slurm controller\n", code=1)
    with pytest.raises(Refused, match="squeue fails: Unable to contact"):
        tidying.in_use("~/work")
    slurm("squeue", "41|COMPLETED|None\n")
    assert tidying.in_use("~/work") == (set(), {RUN})
    work = folder.parents[2] / "runs" / "node1" / RUN
    work.mkdir(parents=True)
    tidying.forget("~/work", RUN)
    assert not folder.exists() and not work.exists()


def test_gaps_are_filled_and_users_words_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "address_of", lambda name: "10.0.0.7" if name == "c4" else "")
    monkeypatch.setattr(task, "interface_towards", lambda address: "eth1")
    found = task.filled(STARTS, 1, 2, ["c4", "c5"])
    assert found.argv == ("/envs/e1/bin/python", "--master_addr=10.0.0.7", "--log_dir=x/attempt2", "a b")
    assert (found.node, found.nodes, found.attempt, found.node_rank) == ("c5", ("c4", "c5"), 2, 1)
    assert found.env == {
        "TOKEN": "SECRET",
        "PLACE": "10.0.0.7",
        "GLOO_SOCKET_IFNAME": "eth1",
        "NCCL_SOCKET_IFNAME": "=eth1",
        "ORCH_ATTEMPT": "2",
        "ORCH_NODE": "c5",
    }
    assert found.files == {"x/attempt2/config": "at 10.0.0.7"}
    # Outputs of an earlier run must not replace what the first attempt wrote.
    assert found.overlays == () and task.filled(STARTS, 1, 1, ["c4", "c5"]).overlays == ("1" * 32,)
    mine = start(0, env={"GLOO_SOCKET_IFNAME": "ib0"})
    known = Starts(starts=(mine,), master="@first@", attempt="@attempt@")
    assert task.filled(known, 0, 1, ["c4"]).env["GLOO_SOCKET_IFNAME"] == "ib0"


def test_a_name_that_resolves_to_a_loopback_address_is_left_to_the_other_nodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def resolve(address: str) -> Callable[..., list[Any]]:
        return lambda *_: [(0, 0, 0, "", (address, 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve("127.0.1.1"))
    assert task.address_of("c1") == "c1"
    monkeypatch.setattr(socket, "getaddrinfo", resolve("10.0.0.7"))
    assert task.address_of("c1") == "10.0.0.7"


def test_a_failed_part_stops_the_others_and_marks_the_attempt(tmp_path: Path) -> None:
    request = start(0, nodes=("c1", "c2", "c3"))
    other = tmp_path / "node1" / "runs" / RUN / "attempt1"
    other.mkdir(parents=True)
    presence.begin(str(other))
    task.tell_others(str(tmp_path), request, 0)
    assert presence.Presence(str(other)).asked_to_stop() == task.FAILURE_GRACE
    assert (tmp_path / "failed.1").exists()


RANK = RankFailed(time=1.0, rank=0, local_rank=0, pid=7, exit_code=1, signal=None, failed_at=None)
STOP = Stopping(time=2.0, by="stop", grace=3.0)
END = Finished(time=3.0, exit_code=1, signal=None, stopped=True, killed=0)


@pytest.mark.parametrize(
    ("events", "failed"),
    [
        # A stop after the failure, before the launcher has ended, hides nothing.
        ([RANK, STOP, END], True),
        ([STOP, RANK, END], False),
        ([STOP, END], False),
        ([END.replace(stopped=False)], True),
        # The supervisor was killed.
        ([], True),
    ],
)
def test_a_job_starts_again_only_for_a_failure_of_its_own(events: list[Event], failed: bool) -> None:
    assert task.failed_by_itself(events) is failed


def test_a_supervisor_counts_as_gone_when_its_beats_stop(tmp_path: Path) -> None:
    presence.begin(str(tmp_path))
    beat = tmp_path / "beat"
    assert presence.alive(str(tmp_path))
    old = beat.stat().st_mtime - presence.GONE_AFTER - 1
    os.utime(beat, (old, old))
    # Until it has recorded an event, it may still be copying the tree.
    assert presence.alive(str(tmp_path))
    (tmp_path / "events.jsonl").write_text("")
    assert not presence.alive(str(tmp_path))
    presence.Presence(str(tmp_path)).beat()
    assert presence.alive(str(tmp_path))
    assert not presence.alive(str(tmp_path / "none"))


def test_a_stop_waits_for_the_record_of_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(paths.SHARED_STATE, str(tmp_path))
    monkeypatch.setenv("ORCH_HOSTNAME", "node0")
    attempt = Path(paths.attempt_dir(RUN, 1))
    attempt.mkdir(parents=True)
    presence.begin(str(attempt))
    monkeypatch.setattr(stop, "ELSEWHERE_MARGIN", 0.0)
    refused = stop.end(RUN, 0.0).refused
    assert refused is not None and refused.error == "the supervisor does not answer"
    ended = Finished(time=1.0, exit_code=0, signal=None, stopped=True, killed=0)
    monkeypatch.setattr(
        presence, "ask_to_stop", lambda folder, grace: (attempt / "events.jsonl").write_text(to_line(ended) + "\n")
    )
    assert stop.end(RUN, 0.0).ended == (RUN,)
    assert stop.end(RUN, 0.0).ended == ()


def test_contact_by_another_machines_clock_counts_when_it_changes(tmp_path: Path) -> None:
    (tmp_path / dead_man_switch.CONTACT).write_text("1.0")
    switch = dead_man_switch.DeadManSwitch(str(tmp_path), 10.0, None)
    switch.heard -= 60
    assert switch.reason_to_end() is None
    switch.heard -= 60
    assert switch.reason_to_end() == "no contact with the control machine for 10 s"
    (tmp_path / dead_man_switch.CONTACT).write_text("0.5")
    assert switch.reason_to_end() is None
