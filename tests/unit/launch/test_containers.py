"""The command lines that start a node's launcher in a container, word by word."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from orchestrator.core.inventory.hosts import Host
from orchestrator.core.inventory.sections.container import Container, Mount
from orchestrator.core.launch.command import NodeCommand, commands
from orchestrator.protocol.container.image import EngineFacts
from tests.unit.launch.plans import facts, planned

IMAGE = "pytorch/pytorch:2.14.1"
WORK = "/home/u/orch-work/runs/a/run1"
LOGS = "/home/u/.orch/a/runs/run1/attempt1/logs"
HOME = "/home/u/orch-work/.orch/home"
NAMES = [
    "PYTHONUNBUFFERED",
    "GLOO_SOCKET_IFNAME",
    "NCCL_SOCKET_IFNAME",
    "HF_TOKEN",
    "NNODES",
    "NODE_RANK",
    "NPROC_PER_NODE",
    "ORCH_RUN_ID",
    "ORCH_ATTEMPT",
    "ORCH_NODE",
    "ORCH_BACKEND",
    "ORCH_DATA",
    "ORCH_OUTPUT_DIR",
]
TORCHRUN = (
    f"/usr/bin/python3 -m torch.distributed.run --nnodes=1 --nproc_per_node={{nproc}} --node_rank=0 "
    f"--master_addr=10.0.0.1 --master_port=29500 --max_restarts=0 --log_dir={LOGS} --redirects=3 t.py"
)
OF_OCI = (
    "{engine} run --rm --pull never --name orch-run1-1-a --network host --uts host --ipc host {own}"
    "--security-opt label=disable --log-driver none --stop-timeout 0 {devices}"
    f"--mount type=bind,source={WORK},target={WORK} "
    f"--mount type=bind,source={WORK}.logs/attempt1,target={LOGS} "
    "--mount type=bind,source=/home/u/orch-work/data,target=/home/u/orch-work/data "
    f"--mount type=bind,source={HOME},target={HOME} "
    "--mount type=bind,source=/data,target=/in,readonly "
    f"--workdir {WORK} --env HOME=/h --env USER=u --env LOGNAME=u --env LD_PRELOAD=x.so "
    + " ".join(f"--env {name}" for name in (*NAMES, "ORCH_HOSTNAME"))
    + f" --memory=64g {IMAGE} {TORCHRUN}"
)


def started(engine: str, *, gpu: str | None = None, uid: int = 1000, adapters: bool = False) -> NodeCommand:
    """Return the command of a host with a container, whose engine reports these facts."""
    asked = Container(IMAGE, options=("--memory=64g",), mounts=(Mount("/data", "/in", writable=False),))
    env = {"LD_PRELOAD": "x.so", "HF_TOKEN": "s3cret", "HOME": "/h"}
    known = EngineFacts(
        engine=engine,
        image=IMAGE,
        uid=uid,
        gid=uid,
        login="u",
        home="/home/u",
        gpu=gpu,
        devices=("/dev/infiniband",) if adapters else (),
    )
    answer: dict[str, Any] = {"hostname": "a", "engine": known, "gpus": 2 if gpu else 0}
    (made,) = commands(
        planned(
            Host("a", "a", container=asked, env=env), known={"a": facts("eth0=10.0.0.1/24", "10.0.0.1", **answer)}
        )
    )
    return made


@pytest.mark.parametrize(
    ("engine", "facts_of", "own", "devices"),
    [
        ("podman", {}, "--userns keep-id --user 1000:1000 ", ""),
        ("podman", {"uid": 0}, "--user 0:0 ", ""),
        ("podman", {"gpu": "nvidia"}, "--userns keep-id --user 1000:1000 --device nvidia.com/gpu=all ", ""),
        (
            "podman",
            {"uid": 0, "adapters": True},
            "--user 0:0 ",
            "--device /dev/infiniband --ulimit memlock=-1 ",
        ),
        (
            "docker",
            {"gpu": "nvidia", "adapters": True},
            "--user 1000:1000 --gpus all ",
            "--device /dev/infiniband --ulimit memlock=-1 ",
        ),
        ("docker", {"gpu": "amd"}, "--user 1000:1000 ", "--device /dev/kfd --device /dev/dri "),
    ],
)
def test_podman_and_docker(engine: str, facts_of: dict[str, Any], own: str, devices: str) -> None:
    made = started(engine, **facts_of)
    nproc = 2 if facts_of.get("gpu") else 1
    assert shlex.join(made.argv) == OF_OCI.format(engine=engine, own=own, devices=devices, nproc=nproc)
    # Secrets reach the container through the engine's own environment.
    assert made.env["HF_TOKEN"] == "s3cret" and made.shown_env["HF_TOKEN"] != "s3cret"
    assert "LD_PRELOAD" not in made.env and made.env["PATH"] == "/usr/bin"
    assert made.container is not None and made.container.name == "orch-run1-1-a"
    ignoring = ("--ignore",) if engine == "podman" else ()
    assert made.container.remove == (engine, "rm", "--force", "--volumes", *ignoring, "orch-run1-1-a")
    assert made.container.folders == (WORK, f"{WORK}.logs/attempt1", "/home/u/orch-work/data", HOME)


def test_apptainer() -> None:
    made = started("apptainer", gpu="nvidia")
    binds = (
        f"{WORK}:{WORK}",
        f"{WORK}.logs/attempt1:{LOGS}",
        "/home/u/orch-work/data:/home/u/orch-work/data",
        f"{HOME}:{HOME}",
        "/data:/in:ro",
    )
    assert shlex.join(made.argv) == (
        f"apptainer exec --cleanenv --home {HOME} --nv {' '.join(f'--bind {each}' for each in binds)} --pwd {WORK} "
        f"--memory=64g {IMAGE} {TORCHRUN.format(nproc=2)}"
    )
    inner = {name.removeprefix("APPTAINERENV_") for name in made.env if name.startswith("APPTAINERENV_")}
    assert inner == {*NAMES, "HOME", "LD_PRELOAD"}
    assert made.shown_env["APPTAINERENV_HF_TOKEN"] != "s3cret" == made.env["APPTAINERENV_HF_TOKEN"]
    # A process like any other: nothing is left to be removed, and the mark finds it.
    assert made.container is not None and made.container.remove == ()
    assert made.env["ORCH_RUN_ID"] == "run1"
