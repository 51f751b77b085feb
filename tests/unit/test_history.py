"""Recorded runs: read from their folders, found by a word, compared, removed, and repeated from what was kept."""

from __future__ import annotations

import fcntl
import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.history.compare import compared
from orchestrator.core.history.listed import Selection
from orchestrator.core.history.record import (
    Code,
    Place,
    RunRecord,
    from_json,
    masked_spec,
    named_options,
    spec_of,
    to_json,
)
from orchestrator.core.launch.plan import RunSpec, Workload
from orchestrator.core.run.telling import timeline
from orchestrator.core.transfer.local_tree import hash_tree
from orchestrator.errors import UsageError
from orchestrator.local.history.code import LARGEST, CodeStore
from orchestrator.local.history.git import git_state
from orchestrator.local.history.runs import (
    INDEX,
    Labels,
    read_run,
    recorded_runs,
    write_labels,
)
from orchestrator.operations.history.again import same_options
from orchestrator.operations.history.finding import find_id, known_id
from orchestrator.operations.history.removing import remove, surplus
from orchestrator.protocol.events import (
    Collected,
    Diagnosed,
    Event,
    Finished,
    Planned,
    RunFinished,
    TorchrunStarted,
    to_line,
)

SPEC = RunSpec(Workload("train.py", "script", "train.py"), args=("--lr", "0.1"), env={"SEED": "1"})
BEGAN = 1_790_000_000.0


def record(run_id: str, **changed: object) -> RunRecord:
    made = RunRecord(
        run_id=run_id,
        began=BEGAN,
        name=None,
        workload="train.py",
        args=SPEC.args,
        nodes=("a", "b"),
        world_size=2,
        place=Place("hosts.yaml", "/where"),
        code=None,
        spec=masked_spec(SPEC),
        options={"max_restarts": 2},
    )
    return replace(made, **changed)  # type: ignore[arg-type]


def ended(code: int, what: str = "") -> list[Event]:
    told = Diagnosed(
        time=BEGAN + 8, node="b", signature="s", rank=1, what=what, cause="it was killed", remedy="look"
    )
    over = RunFinished(time=BEGAN + 9, exit_code=code)
    return [Planned(time=BEGAN, nodes=("a", "b")), *([told] if what else []), over]


def put(base: Path, made: RunRecord, events: list[Event]) -> Path:
    folder = base / made.run_id
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(to_json(made))
    (folder / "events.jsonl").write_text("".join(f"{to_line(event)}\n" for event in events))
    return folder


FIRST, SECOND, THIRD = "20260101-000000-aaaa", "20260101-000001-bbbb", "20260102-000000-cccc"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Three runs: one that succeeded, one that failed, one whose end nobody saw."""
    base = tmp_path / "runs"
    ok = put(base, record(FIRST, name="mine"), ended(0))
    (ok / "a").mkdir()
    (ok / "a" / "metrics.jsonl").write_text('{"epoch": 1, "loss": 2}\n{"epoch": 2, "loss": 1.5, "done": true}\n')
    put(base, record(SECOND, name="mine"), ended(1, "rank 1 on b was killed by SIGKILL"))
    put(base, record(THIRD), [Planned(time=BEGAN, nodes=("a", "b"))])
    return base


def test_a_list_tells_how_runs_ended(base: Path) -> None:
    first, second, third = recorded_runs(base)
    assert (first.state, first.duration, first.exit_code, first.what) == ("ok", 9.0, 0, None)
    assert first.metrics == {"epoch": 2, "loss": 1.5}
    assert (second.state, second.what) == ("failed", "rank 1 on b was killed by SIGKILL")
    assert (third.state, third.ended) == ("left", None)
    with (base / THIRD / ".writer").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert recorded_runs(base)[2].state == "running"


def test_the_index_gives_what_the_folders_do(base: Path) -> None:
    read = recorded_runs(base)
    assert json.loads((base / INDEX).read_text())["runs"].keys() == {FIRST, SECOND}
    assert recorded_runs(base) == read
    (base / INDEX).write_text(json.dumps({"version": 1, "runs": {FIRST: [[1], {}]}}))
    assert recorded_runs(base) == read
    write_labels(base / FIRST, Labels(("paper",), ("good",)))
    assert recorded_runs(base)[0].tags == ("paper",)
    with (base / SECOND / "events.jsonl").open("a") as file:
        file.write(to_line(RunFinished(time=BEGAN + 20, exit_code=0)) + "\n")
    assert recorded_runs(base)[1].state == "ok"


def test_runs_from_before_records_are_listed_by_their_plan(tmp_path: Path) -> None:
    folder = tmp_path / FIRST
    folder.mkdir()
    plan = {"spec": {"workload": {"name": "gpt"}, "args": ["--x"]}, "nodes": [{"node": "n1"}]}
    (folder / "plan.json").write_text(json.dumps(plan))
    (folder / "events.jsonl").write_text('half a line{"event"')
    run = read_run(folder)
    assert (run.workload, run.args, run.nodes, run.state) == ("gpt", ("--x",), ("n1",), "left")
    assert run.began == time.mktime((2026, 1, 1, 0, 0, 0, 0, 0, -1))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (FIRST, FIRST),
        ("20260102", THIRD),
        ("mine", SECOND),
        ("@last", THIRD),
        ("@last-failed", SECOND),
        ("@last-ok", FIRST),
    ],
)
def test_words_mean_runs(base: Path, word: str, expected: str) -> None:
    assert find_id(base, word) == known_id(base, word) == expected


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("2026", f"2026: 3 runs begin so: {FIRST}, {SECOND}, {THIRD} → give more of the id"),
        ("mime", "no run 'mime' in RUNS → did you mean mine?"),
        ("xyz", "no run 'xyz' in RUNS → list them: orch runs"),
        ("@first", "@first: expected one of @last, @last-failed, @last-ok, or the id or name of a run"),
    ],
)
def test_words_that_mean_no_run_are_answered(base: Path, word: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        find_id(base, word)
    assert str(error.value).replace(str(base), "RUNS") == said


def test_a_run_that_this_machine_does_not_know_may_be_known_to_the_hosts(tmp_path: Path) -> None:
    assert known_id(tmp_path / "none", THIRD) == THIRD
    assert known_id(tmp_path / "none", "theirs") == "theirs"
    with pytest.raises(UsageError, match=r"@last: no run in .* is recorded"):
        known_id(tmp_path / "none", "@last")
    with pytest.raises(UsageError, match=r"no run is recorded in .* pass --runs-dir"):
        find_id(tmp_path / "none", "x")


def test_runs_are_selected(base: Path) -> None:
    write_labels(base / FIRST, Labels(("paper",), ("with warmup",)))
    runs = recorded_runs(base)

    def ids(**asked: object) -> list[str]:
        selection = Selection(**asked)  # type: ignore[arg-type]
        return [run.run_id for run in runs if run in selection]

    assert ids() == [FIRST, SECOND, THIRD]
    assert ids(states=("failed",)) == [SECOND]
    assert ids(workload="train") == ids(workload="train.py") == [FIRST, SECOND, THIRD]
    assert ids(workload="gpt") == ids(since=BEGAN + 1) == []
    assert ids(tag="paper") == ids(text="WARMUP") == [FIRST]


def test_removing_spares_what_may_go_on(base: Path) -> None:
    assert [run.run_id for run in surplus(base, 0, None, False)] == [FIRST, SECOND]
    assert surplus(base, 3, None, False) == surplus(base, None, BEGAN, False) == []
    write_labels(base / FIRST, Labels(("paper",)))
    assert [run.run_id for run in surplus(base, 1, BEGAN + 1, False)] == [SECOND]
    assert [run.run_id for run in surplus(base, 1, None, True)] == [FIRST, SECOND]
    with pytest.raises(UsageError, match="may still be going on"):
        remove(base, [FIRST, THIRD], force=False)
    assert (base / FIRST).is_dir()
    with (base / THIRD / ".writer").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="is being recorded by another orch process"):
            remove(base, [THIRD], force=True)
    remove(base, [FIRST, THIRD], force=True)
    assert [run.run_id for run in recorded_runs(base)] == [SECOND]


def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "pkg").mkdir(parents=True)
    (root / "train.py").write_text("import pkg\nlr = 0.1\nprint(lr)\n")
    (root / "train.py").chmod(0o750)
    (root / "pkg" / "__init__.py").write_text("")
    (root / "link").symlink_to("train.py")
    return root


def test_code_is_kept_once_and_restored_exactly(tmp_path: Path) -> None:
    root, base = project(tmp_path), tmp_path / "runs"
    before = hash_tree(root)
    store = CodeStore(base)
    store.keep(before)
    (root / "train.py").write_text("import pkg\nlr = 0.2\nprint(lr)\n")
    (root / "more.py").write_text("")
    after = hash_tree(root)
    store.keep(after)
    assert len(list(store.blobs.iterdir())) == 3
    assert store.folder.stat().st_mode & 0o777 == 0o700
    for tree in (before, after, before):
        place = store.restored(tree.tree_id, root)
        assert hash_tree(place).tree_id == tree.tree_id
    found = compared(
        (record(FIRST), record(SECOND, args=("--lr", "0.2", "-v"), nodes=("a",))),
        (read_run(put(base, record(FIRST), ended(0))), read_run(put(base, record(SECOND), ended(0)))),
        (store.entries(before.tree_id), store.entries(after.tree_id)),
        store.read,
    )
    assert [(each.name, each.before, each.after) for each in found.arguments] == [
        ("--lr", "0.1", "0.2"),
        ("-v", None, ""),
    ]
    assert [(each.name, each.before, each.after) for each in found.options] == [("nodes", "a,b", "a")]
    assert found.code is not None
    assert [(each.path, each.kind) for each in found.code] == [("more.py", "added"), ("train.py", "changed")]
    assert found.code[1].lines[3:] == (" import pkg", "-lr = 0.1", "+lr = 0.2", " print(lr)")
    store.forget({after.tree_id})
    assert store.entries(before.tree_id) is None
    assert hash_tree(store.restored(after.tree_id, root)).tree_id == after.tree_id


def test_a_large_file_comes_from_the_project(tmp_path: Path) -> None:
    root = project(tmp_path)
    with (root / "weights").open("wb") as file:
        file.truncate(LARGEST + 1)
    tree = hash_tree(root)
    store = CodeStore(tmp_path / "runs")
    store.keep(tree)
    (root / "weights").write_bytes(b"others")
    with pytest.raises(UsageError, match="weights of this run was not kept, being larger than 16 MB"):
        store.restored(tree.tree_id, root)
    assert not [each for each in (store.folder / "trees").iterdir() if each.name.startswith(tree.tree_id)]
    with (root / "weights").open("wb") as file:
        file.truncate(LARGEST + 1)
    assert hash_tree(store.restored(tree.tree_id, root)).tree_id == tree.tree_id


def test_a_record_survives_its_file_and_its_spec_is_enough_to_repeat_it(tmp_path: Path) -> None:
    root, base = project(tmp_path), tmp_path / "runs"
    tree = hash_tree(root)
    CodeStore(base).keep(tree)
    spec = replace(SPEC, env={"SEED": "1", "API_KEY": "secret"}, nnodes=(2, 3), nproc=4)
    made = record(FIRST, spec=masked_spec(spec), code=Code(tree.tree_id, str(root), 3, 1))
    assert "secret" not in to_json(made)
    made = replace(made, spec=json.loads(json.dumps(made.spec)))
    assert from_json(to_json(made)) == made
    assert spec_of(made.spec) == replace(spec, env={"SEED": "1", "API_KEY": "***"})
    options = same_options(made, base, ["--more"], {"SEED": "2"}, {"API_KEY": "secret"})
    assert options.spec == replace(spec, args=("--lr", "0.1", "--more"), env={"SEED": "2", "API_KEY": "secret"})
    assert (options.max_restarts, options.again) == (2, made.code)
    assert hash_tree(options.source.root).tree_id == tree.tree_id
    with pytest.raises(UsageError, match="the value of API_KEY is a secret, which was not recorded"):
        same_options(made, base, [], {}, {})
    secret = replace(SPEC, args=("--token", "hidden"))
    with pytest.raises(UsageError, match="an argument is a secret"):
        same_options(replace(made, spec=masked_spec(secret)), base, [], {}, {})
    with pytest.raises(UsageError, match="was not kept"):
        same_options(replace(made, code=None), base, [], {}, {"API_KEY": "x"})


@given(st.lists(st.sampled_from(["--lr", "0.1", "-v", "-1", "x", "--a=b", "--"]), max_size=8))
def test_arguments_by_name_keep_every_word(words: list[str]) -> None:
    found = named_options(words)
    said = " ".join([*found, *found.values()])
    # Of an option that is given twice, the last value counts, as for argparse.
    twice = {word for word in words if word.startswith("-") and words.count(word) > 1}
    assert twice or all(part in said for word in words for part in word.split("="))


def test_a_timeline_joins_what_nodes_have_in_common() -> None:
    events = [
        Planned(time=0.0, nodes=("a", "b")),
        TorchrunStarted(time=1.0, node="b", pid=1),
        TorchrunStarted(time=1.5, node="a", pid=1),
        Finished(time=3.0, node="a", exit_code=0, signal=None, stopped=False, killed=0),
        Collected(time=4.0, node="a", files=1, bytes=1234),
        RunFinished(time=5.0, exit_code=0),
    ]
    assert timeline(events) == [
        (0.0, "attempt 1 on a,b"),
        (1.5, "the launcher started on a,b"),
        (3.0, "ended with exit code 0 on a"),
        (4.0, "a: 1 file fetched (1,234 bytes)"),
        (5.0, "the run is over: success"),
    ]


def test_git_tells_commit_and_changes(tmp_path: Path) -> None:
    root = project(tmp_path)
    assert git_state(root) == (None, "")

    def git(*words: str) -> None:
        identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
        subprocess.run(["git", "-C", str(root), *identity, *words], check=True, capture_output=True)

    git("init", "-b", "main")
    assert git_state(root) == (None, "")
    git("add", ".")
    git("commit", "-m", "first")
    state, diff = git_state(root)
    assert state is not None
    assert (state.branch, state.subject, state.dirty, diff) == ("main", "first", False, "")
    (root / "train.py").write_text("lr = 0.3\n")
    state, diff = git_state(root)
    assert state is not None and state.dirty
    assert "+lr = 0.3" in diff
