"""The workloads without orch: under plain python and plain torchrun."""

from __future__ import annotations

import gzip
import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.workloads import CASES, TEXTS, WORKLOADS, made_csv
from tests.test_survival import heard, rest

pytestmark = pytest.mark.torch


def torchrun(ranks: int) -> tuple[str, ...]:
    """The words before a script that start so many ranks of it here."""
    return ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}")


def environment() -> dict[str, str]:
    """One thread a rank, and sockets on loopback."""
    return {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}


def python(folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the interpreter in a folder."""
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment(), capture_output=True, text=True, timeout=200
    )


def done(folder: Path, *words: str | Path) -> str:
    """What the interpreter prints, which has to end well."""
    result = python(folder, *words)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def rows(folder: Path) -> list[dict[str, Any]]:
    """What it measured."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def is_picture(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


def test_train_alone_then_resumed_by_two_ranks(tmp_path: Path) -> None:
    case = CASES["train"]
    done(tmp_path, case.script, "--dataset", "digits", "--epochs", "12")
    assert [row["epoch"] for row in rows(tmp_path)] == list(range(1, 13))
    assert rows(tmp_path)[-1]["train_loss"] < rows(tmp_path)[0]["train_loss"] / 5
    assert rows(tmp_path)[-1]["samples_per_second"] > 0
    both = done(tmp_path, *torchrun(2), case.script, *case.args)
    assert "World size 2" in both and "Resuming from epoch 12 of snapshot.pt" in both and "Epoch 13/20" in both
    case.learnt(both)
    assert [row["world_size"] for row in rows(tmp_path)] == [1] * 12 + [2] * 8
    assert is_picture(tmp_path / "loss.png")
    assert list(tmp_path.glob(".*partial")) == []


def test_train_in_parts_in_half_precision_and_compiled(tmp_path: Path) -> None:
    """The backend aot_eager needs no C++ compiler; float16 is for GPUs."""
    script = WORKLOADS / "train.py"
    options = ("--dataset", "digits", "--epochs", "8", "--batch-size", "16", "--accumulate", "4")
    parts = done(tmp_path, script, *options, "--precision", "bfloat16", "--compile", "aot_eager")
    assert rows(tmp_path)[-1]["test_accuracy"] > 0.9, parts
    refused = python(tmp_path, script, "--dataset", "digits", "--precision", "float16")
    assert refused.returncode == 2
    assert refused.stderr == "train: --precision float16 needs a GPU: pass bfloat16 or float32\n"


@pytest.mark.parametrize("name", ["train", "hello-ddp"])
def test_one_two_and_four_ranks_learn_the_same(tmp_path: Path, name: str) -> None:
    """The same steps on the same batches of 64: parameters agree within 1e-5, and are equal on all ranks."""
    torch = pytest.importorskip("torch")
    options = ["--epochs", "1", "--no-resume", *(["--dataset", "digits"] if name == "train" else [])]
    states = {}
    for ranks in (1, 2, 4):
        words = torchrun(ranks) if ranks > 1 else ()
        snapshot = f"{ranks}.pt"
        output = done(
            tmp_path,
            *words,
            CASES[name].script,
            *options,
            "--batch-size",
            str(64 // ranks),
            "--snapshot",
            snapshot,
        )
        assert f"Parameters are the same on all {ranks} ranks" in output
        states[ranks] = torch.load(tmp_path / snapshot)
    for ranks in (2, 4):
        assert states[ranks]["step"] == states[1]["step"] >= 23
        for key, value in states[1]["model"].items():
            assert (value - states[ranks]["model"][key]).abs().max() <= 1e-5, (ranks, key)


def test_hello(tmp_path: Path) -> None:
    CASES["hello"].learnt(done(tmp_path, CASES["hello"].script))
    assert rows(tmp_path)[-1]["loss"] < rows(tmp_path)[0]["loss"] / 50
    assert is_picture(tmp_path / "fit.png")


def test_hello_ddp_alone_and_by_two_ranks(tmp_path: Path) -> None:
    case = CASES["hello-ddp"]
    case.learnt(done(tmp_path, case.script))
    assert rows(tmp_path)[0] == {"epoch": 0, "eval_loss": rows(tmp_path)[0]["eval_loss"], "world_size": 1}
    both = done(tmp_path, *torchrun(2), case.script, "--no-resume", "--hidden-size", "32")
    case.learnt(both)
    assert "Parameters: epochs 20, batch_size 32, lr 0.05, data_size 4096, hidden_size 32, seed 0" in both


def test_message_passing_alone_and_by_three_ranks(tmp_path: Path) -> None:
    script = CASES["message-passing"].script
    assert "is alone" in done(tmp_path, script)
    three = done(tmp_path, *torchrun(3), script)
    assert three.count("received 42.0 from rank 0") == 2
    assert CASES["message-passing"].learnt(three).count(" ms") == 4


def test_multinode_is_stopped_at_epoch_5_and_resumed_there_by_two_ranks(tmp_path: Path) -> None:
    script = CASES["multinode"].script
    # Batches of one, so that an epoch takes its time; saving is due only at the end.
    words = [sys.executable, str(script), "12", "100", "--batch-size", "1"]
    process = subprocess.Popen(
        words, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    output = heard(process, "Epoch 4 of 12")
    process.send_signal(signal.SIGTERM)
    output += rest(process)
    assert process.returncode == 128 + signal.SIGTERM, output
    both = done(tmp_path, *torchrun(2), script, "12", "2", "--batch-size", "32")
    assert any(f"Resuming training from snapshot at epoch {epoch}\n" in both for epoch in (5, 6)), both
    assert "Epoch 11 of 12" in both and "Epoch 4 of 12" not in both
    assert [row["epoch"] for row in rows(tmp_path)] == list(range(12))
    assert is_picture(tmp_path / "loss.png")


def test_gpt_alone_then_resumed_by_two_ranks(tmp_path: Path) -> None:
    case = CASES["gpt"]
    output = done(tmp_path, case.script, *case.args)
    case.learnt(output)
    assert len(output.rpartition("characters/s\n")[2]) > 300
    more = done(tmp_path, *torchrun(2), case.script, *case.args, "--steps", "310")
    assert "Resuming at step 300" in more and "Step 310/310" in more
    case.learnt(more)
    other = python(tmp_path, case.script, "--width", "48")
    assert other.returncode == 2 and "is of another text or model" in other.stderr


def test_finetune_alone_then_resumed_by_two_ranks(tmp_path: Path) -> None:
    case = CASES["finetune"]
    made_csv(tmp_path / TEXTS)
    case.learnt(done(tmp_path, case.script, *case.args))
    assert {path.name for path in (tmp_path / "best-model").iterdir()} >= {"model.safetensors", "tokenizer.json"}
    assert [row["epoch"] for row in rows(tmp_path)] == [1, 2, 3, 4]
    more = done(tmp_path, *torchrun(2), case.script, *case.args[:-1], "6")
    assert "Resuming from checkpoint-" in more and "Epoch 6/6" in more and "Epoch 3/6" not in more
    case.learnt(more)


def test_finetune_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    script = CASES["finetune"].script
    (tmp_path / "no-label.csv").write_text("text,kind\nx,y\n")
    for name, line in {
        "absent.csv": "--csv absent.csv is not here: send it with orch sync --data absent.csv, or name one",
        "no-label.csv": "--csv no-label.csv: expected a header with the columns text and label",
    }.items():
        refused = python(tmp_path, script, "--csv", name)
        assert refused.returncode == 2 and refused.stderr.startswith(f"finetune: {line}"), refused.stderr


def test_allreduce_bench_alone_and_by_two_ranks(tmp_path: Path) -> None:
    case = CASES["allreduce-bench"]
    case.learnt(done(tmp_path, case.script, *case.args))
    both = done(tmp_path, *torchrun(2), case.script, *case.args)
    case.learnt(both)
    found = rows(tmp_path)
    assert [row["collective"] for row in found[::2]] == ["all-reduce", "broadcast", "all-gather", "pair"]
    for row in found[:6]:
        # NCCL's tests: of two ranks 2 (n - 1) / n is 1, and (n - 1) / n a half.
        factor = 0.5 if row["collective"] == "all-gather" else 1.0
        assert row["bus_mbit_s"] == pytest.approx(factor * row["bytes"] * 8e-6 / row["seconds"])
    assert {(row["from"], row["to"]) for row in found[6:]} == {(0, 1), (1, 0)}
    assert is_picture(tmp_path / "bandwidth.png")


def test_elastic_alone_then_resumed_by_two_ranks(tmp_path: Path) -> None:
    script = CASES["elastic"].script
    done(tmp_path, script, "--steps", "50", "--step-time", "0")
    both = done(tmp_path, *torchrun(2), script, "--steps", "60", "--step-time", "0")
    assert "Resuming at step 50" in both and "Done after 60 steps on 2 ranks" in both
    assert [row["step"] for row in rows(tmp_path)] == [10, 20, 30, 40, 50, 60]


def test_a_snapshot_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "snapshot.pt").write_bytes(b"not a snapshot")
    for name, line in {
        "elastic": "snapshot.pt is no snapshot of this program",
        "hello-ddp": "snapshot.pt is no",
    }.items():
        refused = python(tmp_path, CASES[name].script)
        assert refused.returncode == 2 and refused.stderr.count("\n") == 1, refused.stderr
        assert line in refused.stderr


def test_a_missing_data_set_is_one_line(tmp_path: Path) -> None:
    result = python(tmp_path, WORKLOADS / "train.py", "--data-dir", "nowhere")
    assert result.returncode == 2
    assert result.stderr.startswith(
        "train: MNIST is not in nowhere/MNIST/raw: send it with orch sync --data mnist, or"
    )
    assert len(result.stderr.splitlines()) == 1


def test_each_workload_says_what_it_takes(tmp_path: Path) -> None:
    """``--help`` needs no GPU, no data and no other rank."""
    listed = python(tmp_path, "-m", "orchestrator", "workloads").stdout
    names = [line.split()[0] for line in listed.splitlines()]
    assert names == sorted({case.name for case in CASES.values()})
    assert all(len(line.split(maxsplit=1)[1]) > 30 for line in listed.splitlines())


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
