"""Commands: the exact words and variables of each node, as a plan prints them."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.core.checks.facts import Facts
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.launch.command import NodeCommand, command, commands
from orchestrator.core.launch.plan import (
    Workload,
    assumed_facts,
)
from orchestrator.core.launch.script.json import as_dict, as_json
from orchestrator.protocol.facts import Interpreter
from orchestrator.ui.console import Screen, continued
from orchestrator.ui.display import Display
from orchestrator.ui.plan import show_settings
from tests.unit.launch.plans import A, B, facts, planned

RUNS_MODULE = {"workload": Workload("pkg.train", "module", "pkg.train", cwd="src"), "args": ("--lr", "0.1")}
VARIABLES = {
    "PYTHONUNBUFFERED": "1",
    "PATH": "/usr/bin",
    "GLOO_SOCKET_IFNAME": "eth0",
    "NCCL_SOCKET_IFNAME": "=eth0",
    "NNODES": "1",
    "NODE_RANK": "0",
    "NPROC_PER_NODE": "1",
    "ORCH_RUN_ID": "run1",
    "ORCH_ATTEMPT": "1",
    "ORCH_NODE": "a",
    "ORCH_BACKEND": "gloo",
    "ORCH_DATA": "/home/u/orch-work/data",
    "ORCH_OUTPUT_DIR": "/home/u/orch-work/runs/a/run1/orch-output",
}


def test_the_command_of_a_module_in_a_folder() -> None:
    assert commands(planned(**RUNS_MODULE)) == (
        NodeCommand(
            node="a",
            node_rank=0,
            cwd="/home/u/orch-work/runs/a/run1/src",
            argv=(
                "/usr/bin/python3",
                "-m",
                "torch.distributed.run",
                "--nnodes=1",
                "--nproc_per_node=1",
                "--node_rank=0",
                "--master_addr=10.0.0.1",
                "--master_port=29500",
                "--max_restarts=0",
                "--log_dir=/home/u/.orch/a/runs/run1/attempt1/logs",
                "--redirects=3",
                "-m",
                "pkg.train",
                "--lr",
                "0.1",
            ),
            env=VARIABLES,
            files={},
        ),
    )


@pytest.mark.parametrize(
    ("asked", "more"),
    [
        (
            {"debug": True},
            {"TORCH_DISTRIBUTED_DEBUG": "DETAIL", "NCCL_DEBUG": "INFO", "TORCH_CPP_LOG_LEVEL": "INFO"},
        ),
        ({"rdzv_backend": "c10d"}, {"NODE_RANK": None}),
        ({"nnodes": (1, 1)}, {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "NODE_RANK": None, "NNODES": None}),
        ({"nproc": 3}, {"NPROC_PER_NODE": "3"}),
        # A script that reads its place gets the run's, whatever the user's variables say.
        ({"env": {"NODE_RANK": "7"}}, {}),
        ({"launcher": "accelerate"}, {"PET_REDIRECTS": "3", "ACCELERATE_USE_CPU": "true"}),
        ({"launcher": "accelerate", "backend": "nccl"}, {"PET_REDIRECTS": "3", "ORCH_BACKEND": "nccl"}),
        # The user's variables override what orch chooses, but not what it tells the workload.
        ({"env": {"PATH": "/mine", "ORCH_NODE": "z"}}, {"PATH": "/mine"}),
    ],
)
def test_the_variables_of_a_node(asked: dict[str, Any], more: dict[str, str | None]) -> None:
    expected = {name: value for name, value in (VARIABLES | more).items() if value is not None}
    assert commands(planned(**asked))[0].env == expected


def test_a_node_is_told_its_place() -> None:
    places = [
        {name: each.env[name] for name in ("NNODES", "NODE_RANK", "NPROC_PER_NODE")}
        for each in commands(planned(replace(A, nproc=2), B))
    ]
    assert places == [
        {"NNODES": "2", "NODE_RANK": "0", "NPROC_PER_NODE": "2"},
        {"NNODES": "2", "NODE_RANK": "1", "NPROC_PER_NODE": "1"},
    ]


def test_what_is_unknown_about_a_node_is_not_in_its_command() -> None:
    made = planned(known={"a": facts(ssh="10.0.0.1", path="")}, rdzv_backend="c10d")
    left_out = {"PATH", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "NODE_RANK"}
    assert commands(made)[0].env == {name: value for name, value in VARIABLES.items() if name not in left_out}
    assert "--local_addr=10.0.0.1" in command(made, made.nodes[0]).argv
    bare = command(made, replace(made.nodes[0], address=None)).argv
    assert not [word for word in bare if word.startswith("--local_addr")]


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        ({"rdzv_id": "j"}, ["--rdzv_endpoint=10.0.0.1:29500", "--rdzv_id=j", "--rdzv_conf=is_host=false"]),
        # At an endpoint that the user names, torchrun finds out itself who opens the store.
        ({"rdzv_endpoint": "h:1"}, ["--rdzv_endpoint=h:1", "--rdzv_id=run1"]),
        (
            {"rdzv_endpoint": "h:1", "nnodes": (1, 2)},
            ["--rdzv_endpoint=h:1", "--rdzv_id=run1", "--rdzv_conf=last_call_timeout=15"],
        ),
    ],
)
def test_the_options_of_a_c10d_rendezvous(asked: dict[str, Any], options: list[str]) -> None:
    argv = commands(planned(A, B, **asked))[1].argv
    begins = argv.index("--rdzv_backend=c10d")
    assert list(argv[begins + 1 : argv.index("--max_restarts=0")]) == [*options, "--local_addr=10.0.0.2"]


def test_what_is_assumed_about_a_node_comes_from_the_inventory() -> None:
    assert assumed_facts(Host("a", "h", user="u", python="/e/python")) == Facts(
        node="a",
        hostname="a",
        home="~",
        user="u",
        system="Linux",
        path="",
        python=Interpreter(path="/e/python"),
        gpus=0,
        addresses=(),
        routes=(),
        ssh_address=None,
        free_port=29500,
        trees=(),
        running=None,
    )
    known = assumed_facts(A)
    assert (known.user, known.python.path) == ("", "python3")


def test_a_plan_as_json() -> None:
    made = planned(env={"HF_TOKEN": "hush"}, local={"NCCL_DEBUG": "INFO"}, args=("--api-key=hush",), nproc=2)
    argv = [*commands(made)[0].argv[:-1], "--api-key=***"]
    assert as_dict(made) == {
        "run_id": "run1",
        "attempt": 1,
        "spec": {
            "workload": {"name": "t.py", "kind": "script", "target": "t.py", "cwd": ".", "project": "project"},
            "args": ["--api-key=***"],
            "nproc": 2,
            "backend": "auto",
            "env": {"HF_TOKEN": "***"},
            "port": None,
            "rdzv_backend": None,
            "rdzv_id": None,
            "rdzv_endpoint": None,
            "debug": False,
            "launcher": "torchrun",
            "mixed_precision": "no",
            "nnodes": None,
            "restarts": 0,
            "nproc_of": "auto",
            "rdzv_conf": {},
            "local": {"NCCL_DEBUG": "INFO"},
        },
        "backend": "gloo",
        "nnodes": 1,
        "world_size": 2,
        "master_addr": "10.0.0.1",
        "master_port": 29500,
        "rdzv_backend": "static",
        "rdzv_id": "run1",
        "rdzv_endpoint": "10.0.0.1:29500",
        "notes": [],
        "nodes": [
            {
                "node": "a",
                "node_rank": 0,
                "nproc_per_node": 2,
                "first_rank": 0,
                "interface": "eth0",
                "address": "10.0.0.1",
                "cwd": "/home/u/orch-work/runs/a/run1",
                "argv": argv,
                "env": {**VARIABLES, "NPROC_PER_NODE": "2", "HF_TOKEN": "***", "NCCL_DEBUG": "INFO"},
                "files": {},
            }
        ],
    }
    elastic = planned(A, B, nnodes=(1, 2))
    assert as_dict(elastic)["nnodes"] == "1:2" and as_dict(elastic)["notes"] == list(elastic.notes)
    assert json.loads(as_json(made)) == as_dict(made)
    assert as_json(made).startswith('{\n  "run_id": "run1",\n') and as_json(made).endswith("\n}\n")


@pytest.mark.parametrize("width", [50, 80, 200])
def test_the_command_before_a_run_fits_the_terminal_and_can_be_copied(
    width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    made, display = planned(args=("--text", "two words", "$(x)", "y" * 60)), Display()
    show_settings(display, made, [])
    head = "on each node (orch plan shows the full command):"
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith(head))
    display.err = Screen(stderr=True, force_terminal=True, width=width, color_system=None)
    show_settings(display, made, [])
    shown = capsys.readouterr().err.partition(f"{head}\n")[2]
    lines = shown.splitlines()
    assert max(len(each) for each in lines if "yyy" not in each) <= width
    assert all(each.endswith(" \\") for each in lines[:-1]) and lines[0].startswith("  /usr/bin/python3 -m ")
    # A shell reads the same words, whether from one line or from several.
    assert shlex.split(shown.replace("\\\n", "")) == shlex.split(line.removeprefix(head))
    assert "'two words' '$(x)'" in line and "y" * 60 in shown


def test_a_command_is_broken_where_the_line_is_full() -> None:
    assert continued(["ab", "cd", "ef"], 80, "  ") == "  ab cd ef"
    assert continued(["ab", "cd", "ef"], 9, "  ") == "  ab cd \\\n    ef"
    assert continued(["abcdefgh", "c"], 5, "  ") == "  abcdefgh \\\n    c"
