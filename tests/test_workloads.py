"""The workloads without orch: under plain python and plain torchrun."""

from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.torch
WORKLOADS = ROOT / "workloads"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the interpreter in a folder."""
    env = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=120
    )


def test_train_alone_then_resumed_by_two_ranks(tmp_path: Path) -> None:
    script = str(WORKLOADS / "train.py")
    alone = python(tmp_path, script, "--dataset", "digits", "--epochs", "12")
    assert alone.returncode == 0, alone.stderr
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, 13))
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] / 5
    assert rows[-1]["test_accuracy"] >= 0.95
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    both = python(tmp_path, *TORCHRUN, script, "--dataset", "digits", "--epochs", "14")
    assert both.returncode == 0, both.stderr
    assert "World size 2" in both.stdout
    assert "Resuming from epoch 12 of snapshot.pt" in both.stdout
    assert "Epoch 13/14" in both.stdout
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 14
    assert not (tmp_path / "snapshot.pt.partial").exists()


def test_message_passing_under_torchrun(tmp_path: Path) -> None:
    result = python(tmp_path, *TORCHRUN, str(WORKLOADS / "message_passing.py"))
    assert result.returncode == 0, result.stderr
    assert "received 42.0 from rank 0" in result.stdout


def test_a_missing_data_set_is_one_line(tmp_path: Path) -> None:
    result = python(tmp_path, str(WORKLOADS / "train.py"), "--data-dir", "nowhere")
    assert result.returncode == 2
    assert result.stderr.startswith("train: MNIST not found in nowhere/MNIST/raw: pass --data-dir DIR, --download")
    assert len(result.stderr.splitlines()) == 1


def test_idx_files_are_read_packed_and_plain(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from workloads.train import Unusable, read_idx

    data = struct.pack(">HBBII", 0, 8, 2, 2, 3) + bytes(range(6))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(data))
    (tmp_path / "plain").write_bytes(data)
    for name in ("packed", "plain"):
        assert torch.equal(read_idx(tmp_path / name), torch.arange(6, dtype=torch.uint8).reshape(2, 3))
    with pytest.raises(Unusable):
        read_idx(tmp_path / "absent")
