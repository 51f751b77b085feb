"""The workloads without orch: as one process and under plain torchrun."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.workloads import CASES, TEXTS, made_csv
from tests.conftest import ROOT
from tests.forked import Done, ForkServer, Job
from tests.waiting import heard, rest

pytestmark = pytest.mark.torch

# Name of a job -> workload and options.
ALONE: dict[str, tuple[str, tuple[str, ...]]] = {
    "train": ("train", ("--dataset", "digits", "--epochs", "12")),
    "parts": (
        "train",
        (
            "--dataset",
            "digits",
            "--epochs",
            "8",
            "--batch-size",
            "16",
            "--accumulate",
            "4",
            "--precision",
            "bfloat16",
        ),
    ),
    # The backend aot_eager needs no C++ compiler.
    "compiled": ("train", ("--dataset", "digits", "--epochs", "1", "--compile", "aot_eager")),
    "half": ("train", ("--dataset", "digits", "--precision", "float16")),
    "no-data": ("train", ("--data-dir", "nowhere")),
    "hello": ("hello", CASES["hello"].args),
    "hello-ddp": ("hello-ddp", CASES["hello-ddp"].args),
    "message-passing": ("message-passing", ()),
    "gpt": ("gpt", CASES["gpt"].args),
    "finetune": ("finetune", CASES["finetune"].args),
    "no-csv": ("finetune", ("--csv", "absent.csv")),
    "no-label": ("finetune", ("--csv", "no-label.csv")),
    "no-text": ("finetune", ("--csv", "no-label.csv", "--text_column", "review", "--label-column", "kind")),
    "one-label": ("finetune", ("--csv", "no-label.csv", "--label-column=kind")),
    "nothing": ("hello", ("--batch_size=0",)),
    "allreduce-bench": ("allreduce-bench", CASES["allreduce-bench"].args),
    "elastic": ("elastic", ("--steps", "50", "--step-time", "0")),
    "not-a-snapshot": ("elastic", ()),
}


@pytest.fixture(scope="module")
def fork_server() -> Iterator[ForkServer]:
    """The process that the jobs of this file are forked from."""
    with ForkServer() as made:
        yield made


@pytest.fixture
def alone(fork_server: ForkServer, tmp_path: Path) -> Callable[[str], Done]:
    """A function that runs a job of ALONE as one process, in a folder of its own."""

    def run(name: str) -> Done:
        workload, args = ALONE[name]
        folder = tmp_path / f"alone-{name}"
        folder.mkdir()
        made_csv(folder / TEXTS)
        (folder / "no-label.csv").write_text("text,kind\nx,y\n")
        if name == "not-a-snapshot":
            (folder / "snapshot.pt").write_bytes(b"not a snapshot")
        return fork_server.run(Job(name, str(CASES[workload].script), args, str(folder)))

    return run


def torchrun(folder: Path, ranks: int, *words: str | Path) -> str:
    """Run a script under plain torchrun, which must succeed, and return what it prints."""
    env = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    result = subprocess.run([*start, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture
def together(fork_server: ForkServer) -> Callable[..., str]:
    """A function that runs a script under torchrun, which must succeed, and returns what the ranks print.

    Its processes are forked, the ranks too: ``torchrun`` above starts each as a program of its own.
    """

    def run(folder: Path, ranks: int, script: Path, *args: str) -> str:
        return fork_server.run(Job("together", str(script), args, str(folder), ranks, torchrun=True)).well()

    return run


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the measurements that a workload recorded."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def summed_up(output: str, unit: str, ranks: int) -> None:
    """Require one summary with a figure for each rank."""
    number = r"\d+(?:\.\d)?"
    line = rf"Summary: {number} s in all, ({number}) {unit}/s, world size {ranks}, peak memory per rank (.*) MB"
    found = [re.fullmatch(line, each) for each in output.splitlines() if each.startswith("Summary")]
    assert len(found) == 1 and found[0] is not None, output
    assert unit == "exercises" or float(found[0][1]) > 0
    peaks = [float(each) for each in found[0][2].split(", ")]
    assert len(peaks) == ranks and min(peaks) > 50


def is_picture(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


def test_train_alone_then_resumed_by_two_ranks(alone: Callable[[str], Done]) -> None:
    case, done = CASES["train"], alone("train")
    folder = done.folder
    done.well()
    assert [row["epoch"] for row in rows(folder)] == list(range(1, 13))
    assert rows(folder)[-1]["train_loss"] < rows(folder)[0]["train_loss"] / 5
    assert rows(folder)[-1]["samples_per_second"] > 0
    both = torchrun(folder, 2, case.script, *case.args)
    assert "World size 2" in both and "Resuming from epoch 12 of snapshot.pt" in both and "Epoch 13/20" in both
    case.learnt(both)
    summed_up(both, "samples", 2)
    assert [row["world_size"] for row in rows(folder)] == [1] * 12 + [2] * 8
    assert is_picture(folder / "loss.png")
    assert list(folder.glob(".*partial")) == []


def test_train_in_parts_in_half_precision_and_compiled(alone: Callable[[str], Done]) -> None:
    parts = alone("parts")
    parts.well()
    assert rows(parts.folder)[-1]["test_accuracy"] > 0.9
    alone("compiled").well()
    half = alone("half")
    assert half.codes == [2]
    assert half.output == "train: --precision float16 needs a GPU: pass bfloat16 or float32\n"


@pytest.mark.parametrize(("name", "more"), [("train", ("--dataset", "digits")), ("hello-ddp", ())])
def test_one_two_and_four_ranks_learn_the_same(
    fork_server: ForkServer, tmp_path: Path, name: str, more: tuple[str, ...]
) -> None:
    """With equal batches of 64, parameters agree within 1e-5 between world sizes and are equal on all ranks."""
    torch = pytest.importorskip("torch")
    states = {}
    for ranks in (1, 2, 4):
        args = ("--epochs", "2", "--batch-size", str(64 // ranks), "--snapshot", f"{ranks}.pt", *more)
        done = fork_server.run(Job(f"on-{ranks}", str(CASES[name].script), args, str(tmp_path), ranks))
        every = "1 rank:" if ranks == 1 else f"all {ranks} ranks:"
        assert f"Parameters are the same on {every}" in done.well()
        states[ranks] = torch.load(tmp_path / f"{ranks}.pt")
    for ranks in (2, 4):
        assert states[ranks]["step"] == states[1]["step"] >= 46
        for key, value in states[1]["model"].items():
            assert (value - states[ranks]["model"][key]).abs().max() <= 1e-5, (ranks, key)


THREADS = """
import sys, time
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from _ranks import Ranks


def gloo_threads():
    # A thread that has been joined stays in /proc for a moment, and may be gone when its name is read.
    names = []
    for path in Path("/proc/self/task").glob("*/comm"):
        try:
            names.append(path.read_text())
        except OSError:
            pass
    return sum("gloo" in name for name in names)


with Ranks("gloo") as ranks:
    ranks.parallel(torch.nn.Linear(3, 3))
    during = gloo_threads()
deadline = time.monotonic() + 10
while gloo_threads() and time.monotonic() < deadline:
    time.sleep(0.01)
print(f"{during} threads, then {gloo_threads()}")
"""


def test_no_thread_outlives_its_process_group(tmp_path: Path) -> None:
    """A thread of gloo that is at work while Python ends would abort the rank."""
    script = tmp_path / "threads.py"
    script.write_text(THREADS)
    assert torchrun(tmp_path, 2, script, str(ROOT / "workloads")).count("3 threads, then 0") == 2


def test_hello_alone_and_by_two_ranks(
    alone: Callable[[str], Done], together: Callable[..., str], tmp_path: Path
) -> None:
    case, done = CASES["hello"], alone("hello")
    folder = done.folder
    case.learnt(done.well())
    assert rows(folder)[-1]["loss"] < rows(folder)[0]["loss"] / 50
    assert is_picture(folder / "fit.png")
    summed_up(done.output, "samples", 1)
    case.learnt(together(tmp_path, 2, case.script, "--batch-size", "100"))
    assert alone("nothing").output == "hello: --batch-size 0: expected at least 1\n"


def test_hello_ddp_alone_and_by_two_ranks(
    alone: Callable[[str], Done], together: Callable[..., str], tmp_path: Path
) -> None:
    case, done = CASES["hello-ddp"], alone("hello-ddp")
    folder = done.folder
    case.learnt(done.well())
    assert [row["epoch"] for row in rows(folder)] == list(range(21))
    assert is_picture(folder / "loss.png")
    both = together(tmp_path, 2, case.script, "--hidden_size=32", "--learning_rate", "0.05", "--no_resume")
    case.learnt(both)
    summed_up(both, "samples", 2)
    model = "Linear(in_features=8, out_features=32, bias=True), Tanh(), Linear(in_features=32, out_features=1, bias=True)"
    assert f"Model: {model}; 321 parameters in all\n" in both
    assert re.search(r"Epoch 20/20  .*  \d+\.\d\d s  \d+ samples/s\n", both)
    assert "Parameters: epochs 20, batch_size 32, lr 0.05, data_size 4096, hidden_size 32, seed 0" in both


def test_message_passing_alone_and_by_three_ranks(
    alone: Callable[[str], Done], together: Callable[..., str], tmp_path: Path
) -> None:
    case = CASES["message-passing"]
    single = alone("message-passing").well()
    assert "is alone" in single
    summed_up(single, "exercises", 1)
    three = together(tmp_path, 3, case.script)
    summed_up(three, "exercises", 3)
    assert three.count("received 42.0 from rank 0") == 2
    assert case.learnt(three).count(" ms") == 4


def test_multinode_is_stopped_at_epoch_5_and_resumed_there_by_two_ranks(
    together: Callable[..., str], tmp_path: Path
) -> None:
    script = CASES["multinode"].script
    # Small batches make an epoch slow enough to stop in; a save is due only at the end.
    words = [sys.executable, str(script), "12", "100", "--batch-size", "4"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        words, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    output = heard(process, "Epoch 4 of 12")
    process.send_signal(signal.SIGTERM)
    output += rest(process)
    assert process.returncode == 128 + signal.SIGTERM, output
    both = together(tmp_path, 2, script, "12", "2", "--batch-size", "32")
    assert any(f"Resuming training from snapshot at epoch {epoch}\n" in both for epoch in (5, 6)), both
    assert "Epoch 11 of 12" in both and "Epoch 4 of 12" not in both
    assert [row["epoch"] for row in rows(tmp_path)] == list(range(12))
    summed_up(both, "samples", 2)
    assert is_picture(tmp_path / "loss.png")


def test_gpt_alone_then_resumed_by_two_ranks(alone: Callable[[str], Done], together: Callable[..., str]) -> None:
    case, done = CASES["gpt"], alone("gpt")
    case.learnt(done.well())
    assert len(done.output.rpartition("characters/s\n")[2]) > 300
    summed_up(done.output, "characters", 1)
    more = together(done.folder, 2, case.script, *case.args, "--steps", "250")
    assert "Resuming at step 240" in more and "Step 250/250" in more
    case.learnt(more)


def test_finetune_alone_and_by_two_ranks(
    alone: Callable[[str], Done], fork_server: ForkServer, together: Callable[..., str], tmp_path: Path
) -> None:
    case, done = CASES["finetune"], alone("finetune")
    folder = done.folder
    case.learnt(done.well())
    assert {path.name for path in (folder / "best-model").iterdir()} >= {"model.safetensors", "tokenizer.json"}
    assert [row["epoch"] for row in rows(folder)] == [1, 2, 3, 4]
    assert all(row["samples_per_second"] > 0 for row in rows(folder))
    summed_up(done.output, "samples", 1)
    # Without options it learns the texts that come with it.
    case.learnt(together(tmp_path, 2, case.script, "--batch-size", "8", "--epochs", "4"))
    lines = {
        "no-csv": "--csv absent.csv is not here: send it with orch sync --data absent.csv, or name one",
        "no-label": "--label-column label: no-label.csv has the columns text, kind\n",
        "no-text": "--text-column review: no-label.csv has the columns text, kind\n",
        # The other names are found, so what is wrong is the next thing.
        "one-label": "--csv no-label.csv: every label is 'y': expected at least two different ones\n",
    }
    for name, line in lines.items():
        refused = alone(name)
        assert refused.codes == [2] and refused.output.startswith(f"finetune: {line}"), refused.output
    goes_on_from_a_whole_checkpoint(fork_server, folder)


def goes_on_from_a_whole_checkpoint(fork_server: ForkServer, folder: Path) -> None:
    """A checkpoint without its mark is incomplete and skipped; the Trainer resumes only on as many ranks."""
    script = str(CASES["finetune"].script)
    newest = max(folder.glob("checkpoints/*"), key=lambda path: int(path.name.partition("-")[2]))
    (newest / "complete").unlink()
    args = CASES["finetune"].args
    two = fork_server.run(Job("two", script, args, str(folder), 2))
    assert two.codes == [2, 2] and "checkpoints are from 1 rank" in two.output
    again = fork_server.run(Job("again", script, args, str(folder)))
    before = int(newest.name.partition("-")[2]) // 4 * 3
    assert f"Resuming from checkpoint-{before}\n" in again.well()
    assert "Epoch 4/4" in again.output and "Epoch 3/4" not in again.output


def test_allreduce_bench_alone_and_by_two_ranks(
    alone: Callable[[str], Done], together: Callable[..., str], tmp_path: Path
) -> None:
    case = CASES["allreduce-bench"]
    case.learnt(alone("allreduce-bench").well())
    both = together(tmp_path, 2, case.script, *case.args)
    case.learnt(both)
    summed_up(both, "exchanges", 2)
    found = rows(tmp_path)
    assert [row["collective"] for row in found[::2]] == ["all-reduce", "broadcast", "all-gather", "pair"]
    for row in found[:6]:
        # The factors of NCCL's tests: with two ranks 2 (n - 1) / n is 1, and (n - 1) / n is a half.
        factor = 0.5 if row["collective"] == "all-gather" else 1.0
        assert row["bus_mbit_s"] == pytest.approx(factor * row["bytes"] * 8e-6 / row["seconds"])
    assert {(row["from"], row["to"]) for row in found[6:]} == {(0, 1), (1, 0)}
    assert is_picture(tmp_path / "bandwidth.png")


def test_elastic_alone_then_resumed_by_two_ranks(
    alone: Callable[[str], Done], together: Callable[..., str]
) -> None:
    done = alone("elastic")
    done.well()
    folder = done.folder
    both = together(folder, 2, CASES["elastic"].script, "--steps", "60", "--step-time", "0")
    assert "Resuming at step 50" in both and "Done after 60 steps on 2 ranks" in both
    summed_up(both, "samples", 2)
    assert [row["step"] for row in rows(folder)] == [10, 20, 30, 40, 50, 60]
    refused = alone("not-a-snapshot")
    assert refused.codes == [2]
    assert refused.output.splitlines()[1:] == [
        "elastic: snapshot.pt is damaged or not a snapshot of this script: delete it or pass --no-resume"
    ]


def test_a_missing_data_set_is_one_line(alone: Callable[[str], Done]) -> None:
    done = alone("no-data")
    assert done.codes == [2]
    assert done.output.startswith(
        "train: MNIST is not in nowhere/MNIST/raw: send it with orch sync --data mnist, or "
    )
    assert done.output.count("\n") == 1


def test_each_workload_is_listed_with_a_line() -> None:
    words = [sys.executable, "-m", "orchestrator", "workloads"]
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[0] for line in listed] == sorted({*(case.name for case in CASES.values()), "mpi-ddp"})
    assert all(len(line.split(maxsplit=1)[1]) > 30 for line in listed)


def test_idx_files_are_read_packed_and_plain(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from train import read_idx

    data = struct.pack(">HBBII", 0, 8, 2, 2, 3) + bytes(range(6))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(data))
    (tmp_path / "plain").write_bytes(data)
    for name in ("packed", "plain"):
        assert torch.equal(read_idx(tmp_path / name), torch.arange(6, dtype=torch.uint8).reshape(2, 3))
    with pytest.raises(SystemExit):
        read_idx(tmp_path / "absent")


class Fetched:
    """A stand-in for torchvision's MNIST, whose fetch takes a while and breaks if a second one runs beside it."""

    fetches = 0

    def __init__(self, root: Path, download: bool) -> None:
        raw = root / "MNIST" / "raw"
        if download and not raw.is_dir():
            type(self).fetches += 1
            raw.mkdir(parents=True)
            time.sleep(0.3)
            for part in ("train", "t10k"):
                (raw / f"{part}-images-idx3-ubyte").write_bytes(
                    b"\0\0\x08\x03" + struct.pack(">3I", 1, 2, 2) + bytes(4)
                )
                (raw / f"{part}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + struct.pack(">I", 1) + b"\7")


def test_the_ranks_of_a_node_download_once_into_the_folder_of_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from train import load

    monkeypatch.setitem(sys.modules, "torchvision.datasets", SimpleNamespace(MNIST=Fetched))
    monkeypatch.setenv("ORCH_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    options = Namespace(dataset="mnist", data_dir=None, download=True)
    for _ in range(2):
        with ThreadPoolExecutor(2) as ranks:
            for train, test in ranks.map(load, [options, options]):
                assert len(train) == len(test) == 1 and train[0][1] == 7
    assert Fetched.fetches == 1
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_every_rank_has_its_share_of_each_batch_once() -> None:
    pytest.importorskip("torch")
    from _ranks import GlobalBatches, Ranks

    def shares(world_size: int, seen: int) -> list[set[int]]:
        batches: list[set[int]] = []
        for rank in range(world_size):
            ranks = Ranks("gloo")
            ranks.rank, ranks.world_size = rank, world_size
            sampler = GlobalBatches(101, 10, ranks, seed=7)
            sampler.seen = seen
            for number, share in enumerate(sampler):
                if rank == 0:
                    batches.append(set())
                assert not batches[number] & set(share.tolist())
                batches[number] |= set(share.tolist())
        return batches

    for world_size in (1, 2, 3, 7, 16):
        assert shares(world_size, 0) == shares(1, 0)
        assert shares(world_size, 30) == shares(1, 0)[3:]
    assert sorted(number for batch in shares(3, 0) for number in batch) == list(range(101))
