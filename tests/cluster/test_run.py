"""Whole runs on three namespace hosts with real OpenSSH and real torchrun."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.workloads import CASES
from tests.conftest import DATA, Orch
from tests.namespaces import Cluster
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.torch]

ECHO = """
import json, os, sys
names = ("RANK", "LOCAL_RANK", "GROUP_RANK", "WORLD_SIZE")
told = ("NNODES", "NODE_RANK", "NPROC_PER_NODE", "MASTER_ADDR", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "NCCL_SOCKET_IFNAME", "A_LICENCE")
facts = {"argv": sys.argv[1:], "value": os.environ.get("VALUE"), "token": os.environ.get("THE_TOKEN"), "node": os.environ["ORCH_NODE"],
         "told": {name: os.environ.get(name) for name in told},
         **{name: int(os.environ[name]) for name in names}}
with open(f"facts{os.environ['RANK']}.json", "w") as file:
    json.dump(facts, file)
"""
HOSTILE = [
    "a b",
    "it's",
    '"q"',
    ";rm -rf x",
    "$(touch y)",
    "`z`",
    "$HOME",
    "line\nbreak",
    "grüße ✓",
    "*",
    "-x",
    "\\",
    # This option's value is masked where it is shown or recorded.
    "--api-key",
    "hush-word",
]


def facts_of(orch: Orch) -> dict[int, dict[str, Any]]:
    """Return what each rank of the newest run wrote, by rank."""
    files = orch.run_folder().glob("*/facts*.json")
    found = [json.loads(file.read_text()) for file in files]
    return {each["RANK"]: each for each in found}


def test_message_passing(orch: Orch, marked: Callable[[], list[Any]]) -> None:
    result = orch("run", "message-passing")
    assert result.returncode == 0, result.stderr
    for rank in (1, 2):
        assert f"[node{rank + 1}:{rank}] Rank {rank} on node{rank + 1} received 42.0 from rank 0" in result.stdout
    assert "master_addr  10." in result.stderr
    assert marked() == []


@pytest.mark.parametrize("backend", ["static", "c10d"])
def test_unequal_nproc_and_hostile_words(
    orch: Orch, cluster: Cluster, backend: str, marked: Callable[[], list[Any]]
) -> None:
    inventory = cluster.hosts_yaml(per_host={"node1": {"nproc": 2}}, pass_env=["A_LICENCE", "NOT_THERE"])
    (orch.folder / "hosts.yaml").write_text(inventory)
    (orch.folder / "echo.py").write_text(ECHO)
    words = ["--env", f"VALUE={HOSTILE[7]}; $(x)", "--env", "THE_TOKEN", "echo.py", "--", *HOSTILE]
    exported = {"THE_TOKEN": "hush-variable", "A_LICENCE": "hush-licence", "MKL_NUM_THREADS": "3"}
    overruled = {"OMP_NUM_THREADS": "7", "NCCL_SOCKET_IFNAME": "wlan9"}
    result = orch("run", "--rdzv-backend", backend, *words, **exported, **overruled)
    assert result.returncode == 0, result.stdout + result.stderr
    ranks = facts_of(orch)
    assert sorted(ranks) == [0, 1, 2, 3]
    for each in ranks.values():
        assert each["WORLD_SIZE"] == 4
        assert each["argv"] == HOSTILE
        assert each["value"] == "line\nbreak; $(x)"
        assert each["token"] == "hush-variable"
        told = each["told"]
        assert (told["MKL_NUM_THREADS"], told["A_LICENCE"], told["NNODES"]) == ("3", "hush-licence", "3")
        assert told["OMP_NUM_THREADS"] == "1"
        assert told["NPROC_PER_NODE"] == ("2" if each["node"] == "node1" else "1")
        assert told["MASTER_ADDR"] and told["NCCL_SOCKET_IFNAME"].startswith("=")
        assert told["NODE_RANK"] == (str(each["GROUP_RANK"]) if backend == "static" else None)
    assert "MKL_NUM_THREADS=3 (--no-env leaves them here)" in result.stderr
    assert "NCCL_SOCKET_IFNAME=wlan9 stays here" in result.stderr
    assert "pass_env: NOT_THERE: not set on this machine" in result.stderr
    assert "hush" not in result.stdout + result.stderr
    for folder in (orch.run_folder(), *(host.home / ".orch" for host in cluster.hosts)):
        kept = [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("facts")]
        assert kept and not [file for file in kept if b"hush" in file.read_bytes()]
    assert sorted((each["node"], each["LOCAL_RANK"]) for each in ranks.values()) == [
        ("node1", 0),
        ("node1", 1),
        ("node2", 0),
        ("node3", 0),
    ]
    groups = {each["node"]: each["GROUP_RANK"] for each in ranks.values()}
    assert sorted(groups.values()) == [0, 1, 2]
    if backend == "static":
        assert groups == {"node1": 0, "node2": 1, "node3": 2}
        assert [ranks[rank]["LOCAL_RANK"] for rank in range(4)] == [0, 1, 0, 0]
    else:
        assert "ignores node_rank" in result.stderr
    assert marked() == []


@pytest.mark.skipif(not DATA.is_dir(), reason="the MNIST files are not beside this checkout")
def test_mnist(orch: Orch, cluster: Cluster) -> None:
    assert orch("sync", "--data", str(DATA / "MNIST")).returncode == 0
    process = orch.popen("run", "train")

    def torchruns() -> list[list[str]]:
        return [
            each.argv
            for host in cluster.hosts
            for each in host.processes()
            if "torch.distributed.run" in each.argv and "LOCAL_RANK" not in each.environ
        ]

    until(lambda: len(torchruns()) == 3, 60)
    seen = [[word for word in argv if word.startswith("--node_rank")] for argv in torchruns()]
    assert seen == [["--node_rank=0"], ["--node_rank=1"], ["--node_rank=2"]]
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    CASES["mnist"].learnt(output)
    assert "Epoch 3/3" in output
    for node in ("node1", "node2", "node3"):
        assert (orch.run_folder() / node / "snapshot.pt").stat().st_size


def test_interrupt_leaves_nothing(orch: Orch, marked: Callable[[], list[Any]]) -> None:
    (orch.folder / "idle.py").write_text("import time\nprint('up')\ntime.sleep(600)\n")
    process = orch.popen("run", "idle.py")
    until(lambda: len(marked()) >= 6, 60)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert time.monotonic() - began < 10
    assert marked() == []


def test_first_failure_is_named_and_stops_the_others(orch: Orch, marked: Callable[[], list[Any]]) -> None:
    script = "import os, time\nif os.environ['RANK'] == '1': raise ValueError('no such thing')\ntime.sleep(600)\n"
    (orch.folder / "bad.py").write_text(script)
    result = orch("run", "bad.py")
    assert result.returncode == 1
    assert "failed: rank 1 on node2 ended with exit code 1" in result.stderr
    assert "ValueError: no such thing" in result.stderr
    assert marked() == []


def test_a_busy_host_refuses(orch: Orch, marked: Callable[[], list[Any]], tmp_path: Path) -> None:
    (orch.folder / "idle.py").write_text("import time\ntime.sleep(600)\n")
    process = orch.popen("run", "idle.py")
    until(lambda: len(marked()) >= 6, 60)
    run_id = orch.run_folder().name
    second = orch("run", "idle.py")
    assert second.returncode == 3
    (line,) = (line for line in second.stderr.splitlines() if "error: node" in line)
    assert re.match(
        rf"error: node\[1-3\]: busy with run {run_id} \(idle\.py\) of \S+@\S+, which started \d+ s ago; .* → .*"
        rf"orch attach {run_id}.*orch stop {run_id}$",
        line,
    )
    assert "Traceback" not in second.stderr
    stopped = orch("stop", run_id)
    assert stopped.stdout == f"stopped {run_id} on node1, node2, node3\n"
    process.communicate(timeout=30)
    assert marked() == []
    (orch.folder / "idle.py").write_text("print('now it starts')\n")
    assert orch("run", "idle.py").returncode == 0


def test_resume_begins_with_earlier_outputs(orch: Orch) -> None:
    script = "import pathlib\np = pathlib.Path('count')\np.write_text(str(int(p.read_text()) + 1) if p.exists() else '1')\n"
    (orch.folder / "count.py").write_text(script)
    assert orch("run", "--nodes", "2", "count.py").returncode == 0
    first = orch.run_folder()
    assert orch("run", "--nodes", "2", "--resume", first.name, "count.py").returncode == 0
    assert (first / "node2" / "count").read_text() == "1"
    assert (orch.run_folder() / "node2" / "count").read_text() == "2"
