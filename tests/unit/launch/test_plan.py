"""Plans: golden commands and addresses chosen from facts; also folded events, snapshots and host ranges."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.checks.catalogue import check
from orchestrator.core.checks.facts import Address, Facts
from orchestrator.core.checks.findings import Examined
from orchestrator.core.inventory.hostrange import expand, folded
from orchestrator.core.inventory.hosts import Host, Rendezvous
from orchestrator.core.launch.command import commands
from orchestrator.core.launch.plan import LaunchPlan, RunSpec, Workload, plan
from orchestrator.core.launch.script.json import as_json
from orchestrator.core.launch.script.ps1 import as_ps1
from orchestrator.core.launch.script.sh import as_sh
from orchestrator.core.run.result import fold
from orchestrator.core.transfer.local_tree import hash_tree
from orchestrator.errors import PreflightError, SyncError, UsageError
from orchestrator.protocol.events import from_line, to_line
from orchestrator.protocol.facts import Interface, Interpreter, Parts, Running
from tests.history import happened

HOSTS = (Host("a", "a"), Host("b", "b", gpus=2, env={"X": "it's", "HF_TOKEN": "hush"}))


def facts(name: str, last: int, **changes: object) -> Facts:
    known = Facts(
        node=name,
        hostname=name,
        home="/home/u",
        user="u",
        system="Linux",
        path="/usr/bin",
        python=Interpreter(path="/usr/bin/python3", version="3.11.2", torch="2.4.0"),
        gpus=0,
        addresses=(
            Address("lo", "127.0.0.1", 8),
            Address("docker0", "172.17.0.1", 16),
            Address("eth0", f"10.0.0.{last}", 24),
        ),
        routes=(Address("eth0", "0.0.0.0", 0),),
        ssh_address=f"10.0.0.{last}",
        free_port=29501,
        trees=(True,),
        running=None,
    )
    return replace(known, **changes)  # type: ignore[arg-type]


def planned(**spec: object) -> LaunchPlan:
    known = {"a": facts("a", 1), "b": facts("b", 2)}
    asked = RunSpec(Workload("t.py", "script", "t.py"), ("a b", "$(x)"), **spec)  # type: ignore[arg-type]
    return plan(HOSTS, Rendezvous(), asked, known, "run1")


def test_the_command_of_each_node() -> None:
    first, second = commands(planned())
    assert shlex.join(second.argv) == (
        "/usr/bin/python3 -m torch.distributed.run --nnodes=2 --nproc_per_node=2 --node_rank=1 "
        "--master_addr=10.0.0.1 --master_port=29501 --max_restarts=0 "
        "--log_dir=/home/u/.orch/b/runs/run1/attempt1/logs --redirects=3 t.py 'a b' '$(x)'"
    )
    assert "--nproc_per_node=1" in first.argv
    assert first.cwd == "/home/u/orch-work/runs/a/run1"
    assert first.env["GLOO_SOCKET_IFNAME"] == "eth0"
    assert first.env["NCCL_SOCKET_IFNAME"] == "=eth0"
    assert [node.first_rank for node in planned().nodes] == [0, 1]


def test_c10d_says_who_opens_the_store() -> None:
    made = planned(rdzv_id="job7")
    first, second = commands(made)
    assert "--rdzv_backend=c10d" in first.argv
    assert "--rdzv_id=job7" in first.argv
    assert "--rdzv_conf=is_host=true" in first.argv
    assert "--rdzv_conf=is_host=false" in second.argv
    assert "--local_addr=10.0.0.2" in second.argv
    assert "ignores node_rank" in made.notes[0]


def test_accelerate_gets_a_config_of_each_node(tmp_path: Path) -> None:
    made = planned(launcher="accelerate", mixed_precision="bf16")
    first, second = commands(made)
    folder = "/home/u/.orch/b/runs/run1/attempt1"
    assert shlex.join(second.argv) == (
        f"/usr/bin/python3 -m accelerate.commands.launch --config_file={folder}/accelerate.yaml --same_network "
        f"--log_dir={folder}/logs t.py 'a b' '$(x)'"
    )
    assert second.files == {
        f"{folder}/accelerate.yaml": (
            "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nnum_machines: 2\nmachine_rank: 1\n"
            "main_process_ip: '10.0.0.1'\nmain_process_port: 29501\nnum_processes: 4\nmixed_precision: 'bf16'\n"
            "rdzv_backend: static\nsame_network: true\nuse_cpu: false\n"
        )
    }
    assert {"machine_rank: 0", "num_processes: 2"} <= set("".join(first.files.values()).splitlines())
    assert first.env["PET_REDIRECTS"] == "3" and first.env["ACCELERATE_USE_CPU"] == "true"
    assert json.loads(as_json(made))["nodes"][1]["files"] == second.files


def test_accelerate_meets_by_torchruns_own_variables() -> None:
    made = planned(launcher="accelerate", rdzv_id="job7", rdzv_conf={"join_timeout": "9"})
    second = commands(made)[1]
    assert "--same_network" not in second.argv
    assert {"--rdzv_backend=c10d", "--rdzv_conf=is_host=false,join_timeout=9"} <= set(second.argv)
    meeting = {name: value for name, value in second.env.items() if name.startswith("PET_")}
    assert meeting == {
        "PET_REDIRECTS": "3",
        "PET_NNODES": "2",
        "PET_RDZV_ENDPOINT": "10.0.0.1:29501",
        "PET_RDZV_ID": "job7",
        "PET_LOCAL_ADDR": "10.0.0.2",
    }
    # accelerate has no range of machines, and would start a machine alone whose port is in use.
    config = set("".join(second.files.values()).splitlines())
    assert {"num_machines: 1", "machine_rank: 0", "num_processes: 2", "main_process_port: 0"} <= config
    elastic = commands(planned(launcher="accelerate", nnodes=(1, 2), restarts=3))[0]
    assert elastic.env["PET_NNODES"] == "1:2" and "--max_restarts=3" in elastic.argv
    assert elastic.env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"


def test_an_elastic_run_leaves_restarts_to_torchrun() -> None:
    first = commands(planned(nnodes=(1, 2), restarts=3))[0]
    assert {"--nnodes=1:2", "--max_restarts=3", "--rdzv_backend=c10d"} <= set(first.argv)
    assert "--rdzv_conf=is_host=true,last_call_timeout=15" in first.argv
    assert first.env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"
    with pytest.raises(UsageError, match="--nnodes 3:4: there are 2 hosts"):
        planned(nnodes=(3, 4))


def test_an_elastic_run_is_well_while_enough_nodes_are() -> None:
    began = [
        happened(0, "planned", None, {"nodes": ["a", "b", "c"], "attempt": 1, "min_nodes": 2}),
        happened(2, "node_lost", "c", {"reason": "silence"}),
        happened(3, "rank_failed", "b", {"rank": 1, "exit_code": 1, "signal": None}),
    ]
    assert fold(began).bearable and not fold(began).ok
    restarted = happened(4, "worker", "b", {"rank": 1, "local_rank": 0, "restart": 1})
    ended = [
        happened(9, "finished", node, {"exit_code": 0, "signal": None, "stopped": False, "killed": 0})
        for node in "ab"
    ]
    result = fold([*began, restarted, *ended])
    assert result.ok and result.failures == () and result.lost == ("c",)
    # The first node holds the rendezvous, and one node is too few.
    for lost in ("a", "b"):
        worse = fold([*began, happened(5, "node_lost", lost, {"reason": "silence"})])
        assert not worse.bearable and not worse.ok


def test_secrets_are_in_the_environment_and_nowhere_else() -> None:
    made = planned()
    assert commands(made)[1].env["HF_TOKEN"] == "hush"
    for text in (as_sh(made), as_ps1(made), as_json(made)):
        assert "hush" not in text
    assert json.loads(as_json(made))["nodes"][1]["env"]["HF_TOKEN"] == "***"


def test_an_address_behind_nat_is_not_used() -> None:
    known = {"a": facts("a", 1, ssh_address="203.0.113.9"), "b": facts("b", 2)}
    made = plan(HOSTS, Rendezvous(), RunSpec(Workload("t", "script", "t.py")), known, "r")
    assert made.master_addr == "10.0.0.1"


@pytest.mark.parametrize(
    ("speeds", "master"),
    [
        ({"eth0": 1000, "ib0": 100_000}, "10.9.0.1"),
        ({"eth0": 1000, "ib0": 1000}, "10.0.0.1"),
        ({"eth0": 100_000, "ib0": 10_000}, "10.0.0.1"),
        ({}, "10.0.0.1"),
    ],
)
def test_the_fastest_network_of_all_nodes_is_preferred(speeds: dict[str, int], master: str) -> None:
    cards = {name: Interface(up=True, speed=speed, mtu=1500, kind="ethernet") for name, speed in speeds.items()}
    parts = Parts(interfaces=cards)
    known = {name: facts(name, last, parts=parts) for name, last in (("a", 1), ("b", 2))}
    fast = {
        name: replace(each, addresses=(*each.addresses, Address("ib0", f"10.9.0.{number}", 24)))
        for number, (name, each) in enumerate(known.items(), 1)
    }
    made = plan(HOSTS, Rendezvous(), RunSpec(Workload("t.py", "script", "t.py")), fast, "run1")
    assert made.master_addr == master
    assert {node.interface for node in made.nodes} == {"ib0" if master == "10.9.0.1" else "eth0"}
    # If one node is not on the fast network, all take the network that they share.
    one = {"a": fast["a"], "b": known["b"]}
    made = plan(HOSTS, Rendezvous(), RunSpec(Workload("t.py", "script", "t.py")), one, "run1")
    assert made.master_addr == "10.0.0.1"


def test_no_common_network_is_an_error_that_names_the_key() -> None:
    island = facts("b", 2, addresses=(Address("eth0", "192.168.5.2", 24),), routes=())
    known = {"a": facts("a", 1, ssh_address=None), "b": island}
    with pytest.raises(PreflightError, match="fabric_address"):
        plan(HOSTS, Rendezvous(), RunSpec(Workload("t", "script", "t.py")), known, "r")


def test_findings() -> None:
    known = {
        "a": facts(
            "a",
            1,
            python=Interpreter(path="/x", error="no such program"),
            running=Running(run_id="r9", owner="ann@pc", workload="t", age=7200),
            leftovers=("r8",),
        ),
        "b": facts("b", 2, python=Interpreter(path="/usr/bin/python3", version="3.11.2", torch=None)),
    }
    found = {str(finding) for finding in check(Examined(HOSTS, known, own_run="r7"), quick=True)}
    beginnings = (
        "a: interpreter '/x' cannot be used: no such program → set python:",
        "a: busy with run r9 (t) of ann@pc, which started 2 h 0 min ago; a host takes one run",
        "a: processes of run r8 are left over without a supervisor → end them: orch stop r8",
        "b: /usr/bin/python3 (Python 3.11.2) has no torch",
    )
    for beginning in beginnings:
        assert any(line.startswith(beginning) for line in found), (beginning, found)


def test_events_fold_to_how_each_node_ended() -> None:
    ended = {"exit_code": 1, "signal": None, "stopped": False, "killed": 0}
    events = [
        happened(0, "planned", None, {"nodes": ["a", "b"]}),
        happened(1, "rank_failed", "b", {"rank": 1, "exit_code": None, "signal": 9, "message": None}),
        happened(2, "finished", "b", ended),
        happened(3, "finished", "a", {**ended, "stopped": True}),
    ]
    result = fold(from_line(to_line(event)) for event in events)
    assert [failure.describe() for failure in result.failures] == ["rank 1 on b was killed by SIGKILL"]
    assert [node.state for node in result.nodes.values()] == ["stopped", "failed"]
    assert result.over


def test_a_snapshot_obeys_ignore_files_and_refuses_pipes(tmp_path: Path) -> None:
    for name in ("a.py", "b.log", "sub/c.log", "sub/keep.log", "skip/d.py", ".git/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / ".gitignore").write_text("*.log\n")
    (tmp_path / ".orchignore").write_text("skip/\n")
    (tmp_path / "sub" / ".gitignore").write_text("!keep.log\n")
    (tmp_path / "link").symlink_to("a.py")
    before = hash_tree(tmp_path)
    paths = [entry.path for entry in before.entries]
    assert paths == [".gitignore", ".orchignore", "a.py", "link", "sub/.gitignore", "sub/keep.log"]
    (tmp_path / "a.py").chmod(0o755)
    assert hash_tree(tmp_path).tree_id != before.tree_id
    subprocess.run(["mkfifo", tmp_path / "pipe"], check=True)
    with pytest.raises(SyncError, match="'pipe' is not a file"):
        hash_tree(tmp_path)


def test_an_unreadable_file_is_refused_by_name() -> None:
    """Root can read everything, so a child process takes the snapshot as nobody."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "secret").write_text("x")
        (folder / "secret").chmod(0)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            said = "nothing"
            try:
                if os.getuid() == 0:
                    os.setuid(65534)
                hash_tree(folder)
            except SyncError as error:
                said = str(error)
            finally:
                os.write(writer, said.encode())
                os._exit(0)
        os.waitpid(child, 0)
        said = os.read(reader, 1000).decode()
        assert said.startswith("cannot read 'secret': Permission denied → make it readable")


def test_a_later_attempt_meets_elsewhere_and_keeps_the_working_folder() -> None:
    known = {"a": facts("a", 1, free_port=29502), "b": facts("b", 2)}
    asked = RunSpec(Workload("t.py", "script", "t.py"), port=29501, rdzv_backend="c10d")
    first, second = (plan(HOSTS, Rendezvous(), asked, known, "run1", attempt) for attempt in (1, 2))
    assert (first.master_port, second.master_port) == (29501, 29502)
    assert (first.rdzv_id, second.rdzv_id) == ("run1", "run1-2")
    assert first.nodes[0].work == second.nodes[0].work
    assert second.nodes[0].attempt_dir.endswith("/run1/attempt2")
    assert commands(second)[0].env["ORCH_ATTEMPT"] == "2"


@pytest.mark.parametrize(
    "names, short",
    [
        (["gpu01", "gpu02", "gpu04", "web"], "gpu[01-02,04],web"),
        (["node9", "node10", "node11"], "node[9-11]"),
        (["a1"], "a1"),
        (["b"], "b"),
    ],
)
def test_names_are_written_short(names: list[str], short: str) -> None:
    assert folded(names) == short


@given(st.lists(st.from_regex(r"[a-z]{1,3}[0-9]{0,3}", fullmatch=True), min_size=1, unique=True))
def test_short_names_mean_the_same(names: list[str]) -> None:
    parts = re.split(r",(?![^\[]*\])", folded(names))
    assert sorted(name for part in parts for name in expand(part)) == sorted(names)
