"""Which variables of the control machine reach the ranks, and what outranks them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from orchestrator.core.inventory.hosts import Host
from orchestrator.core.inventory.parsing import parse_inventory
from orchestrator.core.launch.command import commands
from orchestrator.core.launch.plan import RunSpec, nproc_per_node
from orchestrator.core.launch.script.json import as_json
from orchestrator.core.launch.script.ps1 import as_ps1
from orchestrator.core.launch.script.sh import as_sh
from orchestrator.core.launch.variables import LocalSettings, local_settings, passed
from orchestrator.errors import InventoryError, OrchError
from orchestrator.protocol.facts import Memory, Parts
from orchestrator.ui.plan import settings_grid
from tests.unit.launch.plans import SCRIPT, A, B, facts, planned, refusal


def test_settings_travel_and_the_rest_stays() -> None:
    environ = {
        "NCCL_DEBUG": "INFO",
        "GLOO_SOCKET_IFNAME": "eth0",
        "TORCH_LOGS": "+dynamo",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "OMP_NUM_THREADS": "4",
        "MKL_NUM_THREADS": "4",
        "CUDA_VISIBLE_DEVICES": "0, 2,-1",
        "CUDA_LAUNCH_BLOCKING": "1",
        "HIP_VISIBLE_DEVICES": "",
    }
    others = {
        "HF_TOKEN": "hush",
        "HOME": "/root",
        "PATH": "/bin",
        "RANK": "3",
        "MASTER_ADDR": "x",
        "TORCHELASTIC_RUN_ID": "outer",
        "TORCHINDUCTOR_CACHE_DIR": "x",
        "CUDA_HOME": "x",
        "MY_NCCL_DEBUG": "x",
        "nccl_debug": "x",
    }
    assert local_settings({**environ, **others}) == LocalSettings(environ, {})


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("TORCH_HOME", "/data/torch", "a path of this machine"),
        ("NCCL_TOPO_FILE", "~/topo.xml", "a path of this machine"),
        ("NCCL_DEBUG_FILE", "./nccl.log", "a path of this machine"),
        ("CUDA_VISIBLE_DEVICES", "GPU-8932f937", "ids of this machine's GPUs"),
        ("CUDA_VISIBLE_DEVICES", "0,MIG-1", "ids of this machine's GPUs"),
        ("TORCH_LOGS", "\udc80", "not UTF-8 text"),
    ],
)
def test_what_names_something_of_this_machine_stays(name: str, value: str, reason: str) -> None:
    assert local_settings({name: value}) == LocalSettings({}, {name: reason})


def test_everything_outranks_a_local_setting() -> None:
    local = {"NCCL_DEBUG": "local", "OMP_NUM_THREADS": "1", "NCCL_ALGO": "local", "TORCH_LOGS": "local"}
    host = Host("a", "a", passed={"OMP_NUM_THREADS": "2", "NCCL_ALGO": "passed"}, env={"NCCL_ALGO": "inventory"})
    env = commands(planned(host, local=local, env={"TORCH_LOGS": "run"}))[0].env
    assert {name: env[name] for name in local} == {
        "NCCL_DEBUG": "local",
        "OMP_NUM_THREADS": "2",
        "NCCL_ALGO": "inventory",
        "TORCH_LOGS": "run",
    }
    assert commands(planned(local=local, debug=True))[0].env["NCCL_DEBUG"] == "INFO"
    elastic = planned(local={"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "0"}, nnodes=(1, 1))
    assert commands(elastic)[0].env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"


def test_the_interface_that_orch_finds_outranks_this_machines() -> None:
    local = {"NCCL_SOCKET_IFNAME": "wlan0", "GLOO_SOCKET_IFNAME": "eth0"}
    made = planned(A, B, local=local)
    assert {each.env["NCCL_SOCKET_IFNAME"] for each in commands(made)} == {"=eth0"}
    assert made.notes == (
        "NCCL_SOCKET_IFNAME=wlan0 stays here: orch found each host's interface; "
        "to insist: --env NCCL_SOCKET_IFNAME=wlan0",
    )
    insisted = planned(A, B, local=local, env={"NCCL_SOCKET_IFNAME": "ib0"})
    assert {each.env["NCCL_SOCKET_IFNAME"] for each in commands(insisted)} == {"ib0"}
    # Where orch finds none, this machine's is better than nothing.
    lost = planned(known={"a": facts(ssh="203.0.113.9")}, local=local)
    assert commands(lost)[0].env["NCCL_SOCKET_IFNAME"] == "wlan0" and lost.notes == ()


# This machine's CUDA_VISIBLE_DEVICES, the host's keys, the GPUs that the node has, the number of processes.
@pytest.mark.parametrize(
    ("local", "asked", "keys", "gpus", "nproc"),
    [
        ("0,1", {}, {}, 4, 2),
        ("0,1", {}, {"gpus": 4}, 0, 2),
        ("0,1", {}, {"gpus": 0}, 4, 1),
        ("0,1", {}, {}, 0, 1),
        ("", {}, {}, 4, 1),
        ("-1", {}, {}, 4, 1),
        ("0,1", {}, {"nproc": 3}, 4, 3),
        ("0,1", {"nproc": 4}, {}, 4, 4),
        ("6,7", {}, {"env": {"CUDA_VISIBLE_DEVICES": "0,1,2"}}, 4, 3),
        ("6,7", {"env": {"CUDA_VISIBLE_DEVICES": "0"}}, {}, 4, 1),
        ("0,1", {"nproc_of": "gpu"}, {"nproc": 3}, 4, 2),
    ],
)
def test_this_machines_gpus_decide_the_number_of_processes(
    local: str, asked: dict[str, Any], keys: dict[str, Any], gpus: int, nproc: int
) -> None:
    spec = RunSpec(SCRIPT, **asked, local={"CUDA_VISIBLE_DEVICES": local})
    assert nproc_per_node(Host("a", "a", **keys), facts(gpus=gpus), spec) == nproc


def test_gpus_that_a_node_has_not_are_refused() -> None:
    known = {"a": facts("eth0=10.0.0.1/24", "10.0.0.1", gpus=4)}
    assert planned(known=known, local={"CUDA_VISIBLE_DEVICES": "0,1"}, nproc=4).notes == (
        "a: 4 processes share the 2 GPUs that this machine's variables leave visible; --no-env shows all",
    )
    for fits in ({"nproc": 2}, {"nproc": 4, "env": {"CUDA_VISIBLE_DEVICES": "0"}}):
        assert planned(known=known, local={"CUDA_VISIBLE_DEVICES": "0,1"}, **fits).notes == ()
    assert "names GPU 7" in refusal(known=known, local={"CUDA_VISIBLE_DEVICES": "7"}, nproc=1)
    assert refusal(known=known, local={"CUDA_VISIBLE_DEVICES": "3,7"}) == (
        "CUDA_VISIBLE_DEVICES=3,7, exported on this machine, names GPU 7; a has 4, counted from 0 → "
        "unset CUDA_VISIBLE_DEVICES, set it under env: of the host, or use --no-env"
    )


@pytest.mark.parametrize(
    ("spec", "backend"),
    [
        ({}, "nccl"),
        ({"local": {"CUDA_VISIBLE_DEVICES": ""}}, "gloo"),
        ({"local": {"CUDA_VISIBLE_DEVICES": ""}, "env": {"CUDA_VISIBLE_DEVICES": "0"}}, "nccl"),
        ({"env": {"CUDA_VISIBLE_DEVICES": "-1"}}, "gloo"),
        ({"env": {"CUDA_VISIBLE_DEVICES": "-1"}, "backend": "nccl"}, "nccl"),
    ],
)
def test_hidden_gpus_serve_no_backend(spec: dict[str, Any], backend: str) -> None:
    known = {"a": facts("eth0=10.0.0.1/24", "10.0.0.1", gpus=4)}
    assert planned(known=known, **spec).backend == backend


def test_processes_may_be_counted_by_gpu_or_core() -> None:
    memory = Memory(total=1, available=1, swap=0, limit=None, cores=6, load=0.0)
    known = facts(gpus=2, parts=Parts(memory=memory))
    of_gpu, of_cpu = (RunSpec(SCRIPT, nproc_of=each) for each in ("gpu", "cpu"))
    assert nproc_per_node(A, known, of_gpu) == 2 and nproc_per_node(A, known, of_cpu) == 6
    assert nproc_per_node(replace(A, env={"CUDA_VISIBLE_DEVICES": "1"}), known, of_gpu) == 1
    assert nproc_per_node(replace(A, gpus=4), known, of_gpu) == 4
    with pytest.raises(OrchError, match="a: --nproc gpu: no GPU is visible → use --nproc auto, or give a number"):
        nproc_per_node(A, facts(), of_gpu)
    with pytest.raises(OrchError, match="a: the number of its cores is unknown"):
        nproc_per_node(A, facts(), of_cpu)


ENVIRON = {
    "HF_TOKEN": "hush",
    "WANDB_API_KEY": "hush",
    "WANDB_MODE": "word",
    "LICENCE": "hush",
    "RANK": "1",
    "HOME": "h",
}


def test_variables_are_passed_by_name_or_glob() -> None:
    assert passed(ENVIRON, ["HF_TOKEN", "WANDB_*", "COMET_*", "MISSING"]) == (
        {"HF_TOKEN": "hush", "WANDB_API_KEY": "hush", "WANDB_MODE": "word"},
        ("COMET_*", "MISSING"),
    )
    assert passed({"ORCH_RUN_ID": "x", "RANK": "1"}, ["ORC*", "RAN*"]) == ({}, ("ORC*", "RAN*"))


def test_pass_env_adds_up_and_env_outranks_it() -> None:
    text = """
pass_env: [WANDB_*]
defaults: {pass_env: [HF_TOKEN], env: {WANDB_MODE: offline}}
hosts: {a: {pass_env: [LICENCE, GONE]}, b: }
"""
    a, b = parse_inventory(text, environ=ENVIRON).hosts
    everywhere = {"WANDB_API_KEY": "hush", "WANDB_MODE": "word", "HF_TOKEN": "hush"}
    assert (a.passed, a.not_set) == ({**everywhere, "LICENCE": "hush"}, ("GONE",))
    assert (b.passed, b.not_set) == (everywhere, ())
    assert a.variables == {**everywhere, "LICENCE": "hush", "WANDB_MODE": "offline"}
    assert "hush" not in repr(a)
    assert planned(a, b).notes == ("pass_env: GONE: not set on this machine",)


@pytest.mark.parametrize(
    ("value", "mistake"),
    [
        ("HF_TOKEN", "pass_env: 'HF_TOKEN': expected a list of names of variables, such as [HF_TOKEN, WANDB_*]"),
        ("['*']", "pass_env[0]: '*': expected the name of a variable, or a prefix of one such as WANDB_*"),
        ("['A*']", "pass_env[0]: 'A*': expected the name of a variable, or a prefix of one such as WANDB_*"),
        ("[3]", "pass_env[0]: 3: expected the name of a variable, or a prefix of one such as WANDB_*"),
        ("[A=b]", "pass_env[0]: 'A=b': expected the name of a variable, or a prefix of one such as WANDB_*"),
        ("[X, RANK]", "pass_env[1]: torchrun and orch set RANK themselves: expected another name"),
    ],
)
def test_mistakes_in_pass_env(value: str, mistake: str) -> None:
    with pytest.raises(InventoryError) as error:
        parse_inventory(f"pass_env: {value}\nhosts: [a]", environ=ENVIRON)
    assert error.value.problems == (mistake,)


def test_passed_values_are_never_shown() -> None:
    inventory = parse_inventory("pass_env: [LICENCE, HF_TOKEN]\nhosts: [a]", environ=ENVIRON)
    made = planned(*inventory.hosts, local={"OMP_NUM_THREADS": "3", "TORCH_API_TOKEN": "hush"})
    command = commands(made)[0]
    assert (command.env["LICENCE"], command.env["HF_TOKEN"]) == ("hush", "hush")
    console = Console(width=200, record=True)
    console.print(settings_grid(made, []))
    shown = [as_sh(made), as_ps1(made), as_json(made), console.export_text(), " ".join(command.argv)]
    assert not [text for text in shown if "hush" in text]
    assert json.loads(shown[2])["nodes"][0]["env"]["LICENCE"] == "***" and 'LICENCE="${LICENCE}"' in shown[0]
    assert "OMP_NUM_THREADS=3 TORCH_API_TOKEN=*** (--no-env leaves them here)" in shown[3]
    assert "HF_TOKEN LICENCE" in shown[3]
