"""The workloads under ``orch run`` on three hosts, and that a stop signal leaves a whole snapshot."""

from __future__ import annotations

import random
import re
import signal
from pathlib import Path

import pytest

from benchmarks import stops
from benchmarks.workloads import CASES, TEXTS, WORKLOADS, made_csv
from tests.conftest import Orch
from tests.namespaces import Cluster
from tests.waiting import heard, rest

pytestmark = [pytest.mark.cluster, pytest.mark.torch]


# Three hosts learn in fewer steps than one. test_run.py runs train, on MNIST.
@pytest.mark.parametrize(
    ("name", "sooner"), [("hello", ()), ("hello-ddp", ("--epochs", "8")), ("gpt", ("--steps", "150"))]
)
def test_three_hosts_learn(orch: Orch, name: str, sooner: tuple[str, ...]) -> None:
    case = CASES[name]
    result = orch("run", name, "--", *case.args, *sooner)
    assert result.returncode == 0, result.stdout + result.stderr
    case.learnt(result.stdout)
    assert (orch.run_folder() / "node1" / "metrics.jsonl").exists()
    assert list(orch.run_folder().glob("node1/*.png")) != []
    if name != "hello":
        assert "World size 3 on node1, node2, node3 (gloo, cpu)" in result.stdout
        assert len(list(orch.run_folder().glob("node?/snapshot.pt"))) == 3


def test_a_data_set_that_is_nowhere_is_named_with_the_ways_out(orch: Orch, cluster: Cluster) -> None:
    (orch.folder / "hosts.yaml").write_text(cluster.hosts_yaml(per_host={"node1": {"workdir": "~/elsewhere"}}))
    result = orch("run", "--nodes", "node1", "finetune", "--", "--csv", "reviews.csv")
    assert result.returncode == 1
    assert "cause: the script's input reviews.csv is not on this node" in result.stderr
    assert (
        "seen: finetune: --csv reviews.csv is not here: send it with orch sync --data reviews.csv" in result.stderr
    )


def test_multinode_is_stopped_at_epoch_5_and_resumed(orch: Orch) -> None:
    process = orch.popen("run", "--nodes", "2", "multinode", "--", "12", "100", "--batch-size", "3")
    output = heard(process, "Epoch 4 of 12")
    process.send_signal(signal.SIGINT)
    output += rest(process)
    assert process.returncode == 130, output
    resumed = orch("run", "--nodes", "2", "--resume", orch.run_folder().name, "multinode", "--", "12", "2")
    assert resumed.returncode == 0, resumed.stderr
    assert re.search(r"Resuming training from snapshot at epoch [56]\n", resumed.stdout), output + resumed.stdout
    assert "Epoch 11 of 12" in resumed.stdout and "Epoch 4 of 12" not in resumed.stdout


def test_finetune_learns_under_accelerate(orch: Orch) -> None:
    made_csv(orch.folder / TEXTS)
    assert orch("sync", "--project", str(WORKLOADS), "--data", TEXTS).returncode == 0
    case = CASES["finetune"]
    result = orch("run", "--nodes", "2", "--launcher", "accelerate", "finetune", "--", *case.args)
    assert result.returncode == 0, result.stdout + result.stderr
    case.learnt(result.stdout)
    assert "World size 2 on node1, node2 (gloo, cpu)" in result.stdout
    assert len(list(orch.run_folder().glob("node?/checkpoints/*/model.safetensors"))) >= 2
    assert len(re.findall(r"Epoch .* accuracy \S+|Evaluation accuracy .*", result.stdout)) == 5


def test_allreduce_bench_over_slow_links_tells_their_speed(orch: Orch, cluster: Cluster) -> None:
    for host in cluster.hosts:
        host.slow(100)
    try:
        words = [
            "--collectives",
            "all-reduce",
            "--sizes",
            "1M",
            "4M",
            "--turns",
            "3",
            "--pairs",
            "--pair-size",
            "1M",
        ]
        result = orch("run", "allreduce-bench", "--", *words)
    finally:
        for host in cluster.hosts:
            host.unslow()
    assert result.returncode == 0, result.stderr
    found = re.findall(r"all-reduce +(\d+) +\S+ +\S+ +(\S+)", result.stdout)
    assert float(dict(found)["4194304"]) == pytest.approx(100, rel=0.2), result.stdout
    pairs = re.findall(r"\] +\d node\d +(.+)", result.stdout)
    rates = [float(cell) for row in pairs for cell in row.split() if cell != "-"]
    assert len(rates) == 6 and all(60 < rate < 120 for rate in rates), result.stdout


def test_one_host_is_a_cluster_too(orch: Orch, cluster: Cluster) -> None:
    result = orch("run", "--single-node", "--nproc", "2", "message-passing")
    assert result.returncode == 0, result.stderr
    assert "Rank 1 on node1 received 42.0 from rank 0" in result.stdout
    CASES["message-passing"].learnt(result.stdout)
    both = orch("run", "--single-node", "--nodes", "2", "message-passing")
    assert both.returncode == 2 and "--single-node and --nodes exclude each other" in both.stderr


def test_a_stop_signal_leaves_a_whole_snapshot(tmp_path: Path) -> None:
    """Stop twice; ``python -m benchmarks.stops`` does so thirty times."""
    numbers = random.Random(1)
    for ranks, moment in ((1, "in a save"), (2, "by chance")):
        stops.once(tmp_path, ranks, moment, numbers)
