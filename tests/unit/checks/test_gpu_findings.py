"""The exact findings about GPUs and RDMA adapters, for facts at the limits of each check and just beside them."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.core.checks import gpus
from orchestrator.protocol.facts import (
    RdmaPort,
    Torch,
)
from tests.unit.checks.facts import (
    GPU,
    PORT,
    TORCH,
    examined,
    node,
    told,
)

# ---- GPUs and software

FREE_GPU = "end the processes that hold it; orch ps shows leftovers of runs"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"memory.used": "40960"}, None),
        (
            {"memory.used": "40961.5"},
            f"warn b: GPU 0 (H100) already has 40 of 80 GiB in use, held by no process that nvidia-smi lists → "
            f"{FREE_GPU}",
        ),
        ({"memory.used": "[N/A]", "memory.total": "1"}, None),
        ({"memory.used": "9", "memory.total": "[N/A]"}, None),
        ({"temperature.gpu": "86"}, None),
        (
            {"temperature.gpu": "87"},
            "warn b: GPU 0 (H100) is at 87 °C and will be slowed down → check the cooling",
        ),
        ({"temperature.gpu": "[N/A]"}, None),
        (
            {"ecc.errors.uncorrected.volatile.total": "1"},
            "fail b: GPU 0 (H100) reports uncorrected memory errors: 1 → reset the GPU (nvidia-smi -r) or replace it",
        ),
        ({"ecc.errors.uncorrected.volatile.total": "[N/A]"}, None),
        (
            {"clocks_throttle_reasons.hw_slowdown": "Active"},
            "warn b: GPU 0 (H100) is being slowed down by its hardware → check the power supply and the cooling",
        ),
        (
            {"persistence_mode": "Disabled"},
            "warn b: GPU 0 (H100) is not in persistence mode: the driver is loaded again for every process → "
            "run there: sudo nvidia-smi -pm 1",
        ),
        (
            {"compute_mode": "Prohibited"},
            "fail b: GPU 0 (H100) allows no computing (compute mode Prohibited) → run there: sudo nvidia-smi -c 0",
        ),
    ],
)
def test_a_gpu(changes: dict[str, str], line: str | None) -> None:
    assert told(gpus.gpus, examined(node(gpus=({**GPU, **changes},)))) == ([] if line is None else [line])


def test_the_first_four_holders_of_a_gpus_memory_are_named() -> None:
    users = tuple((pid, "python", "9") for pid in range(1, 6))
    (line,) = told(gpus.gpus, examined(node(gpus=({**GPU, "memory.used": "81920"},), gpu_users=users)))
    assert line == (
        "warn b: GPU 0 (H100) already has 80 of 80 GiB in use, "
        f"held by pid 1 (python), pid 2 (python), pid 3 (python), pid 4 (python) → {FREE_GPU}"
    )


VISIBLE = "check nvidia-smi -L and CUDA_VISIBLE_DEVICES there, or correct gpus:"


@pytest.mark.parametrize(
    ("there", "wanted", "backend", "lines"),
    [
        (2, 2, "auto", []),
        (1, 2, "auto", [f"fail b: 1 of the 2 GPUs in the inventory are visible → {VISIBLE}"]),
        (0, 2, "nccl", [f"fail b: 0 of the 2 GPUs in the inventory are visible → {VISIBLE}"]),
        (0, None, "nccl", ["fail b: --backend nccl needs GPUs, but none is visible → use --backend gloo"]),
        (0, 0, "nccl", ["fail b: --backend nccl needs GPUs, but none is visible → use --backend gloo"]),
        (1, None, "nccl", []),
        (0, None, "gloo", []),
        (
            0,
            None,
            "mpi",
            [
                "fail b: torch has no backend mpi, only gloo, nccl → "
                "use --backend gloo, or install a torch that has the backend"
            ],
        ),
    ],
)
def test_gpus_and_backends(there: int, wanted: int | None, backend: str, lines: list[str]) -> None:
    seen = examined(node(facts={"gpus": there}, torch=TORCH), host={"gpus": wanted}, backend=backend)
    assert told(gpus.gpus, seen) == lines


@pytest.mark.parametrize(
    ("there", "torch", "listed", "line"),
    [
        (2, TORCH, (), None),
        (0, TORCH.replace(devices=0), (), None),
        (2, None, (), None),
        (
            3,
            TORCH,
            (GPU,),
            "torch (CUDA 12.4) can use 2 of the 3 GPUs → check that driver 570.1 is new enough for that CUDA; "
            "with NVSwitch, start nvidia-fabricmanager",
        ),
        (
            3,
            TORCH,
            (),
            "torch (CUDA 12.4) can use 2 of the 3 GPUs → check that driver is new enough for that CUDA; "
            "with NVSwitch, start nvidia-fabricmanager",
        ),
        (
            2,
            Torch(cuda=None, devices=0, backends=()),
            (GPU,),
            "torch was built without CUDA and cannot use the 2 GPUs → "
            "install a CUDA build there: /py -m pip install --force-reinstall torch",
        ),
    ],
)
def test_gpus_that_torch_can_use(
    there: int, torch: Torch | None, listed: tuple[Any, ...], line: str | None
) -> None:
    known = [node("z"), *(node(name, {"gpus": there}, torch=torch, gpus=listed) for name in "ab")]
    # What is wrong with one host hides nothing of the next.
    assert told(gpus.torch_sees, examined(*known)) == (
        [] if line is None else [f"fail {name}: {line}" for name in "ab"]
    )


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (("0000:3b:00", 31, "MMU Fault"), None),
        (("0000:3b:00", 63, ""), "warn b: the GPU at 0000:3b:00 has logged Xid 63 since the last boot"),
        (
            ("0000:3b:00", 79, "pid=1, GPU has fallen off the bus."),
            "fail b: the GPU at 0000:3b:00 has logged Xid 79 since the last boot: GPU has fallen off the bus",
        ),
    ],
)
def test_errors_that_the_driver_logged(error: tuple[str, int, str], line: str | None) -> None:
    remedy = "reset the GPU (nvidia-smi -r) or reboot; leave the node out if the error returns"
    found = told(gpus.hardware_errors, examined(node(gpu_errors=(("0000:3b:00", 13, "Engine Exception"), error))))
    assert found == ([] if line is None else [f"{line} → {remedy}"])


def test_peer_access_that_is_lacking() -> None:
    line = (
        "warn b: the pair GPU 0, GPU 1{} has no peer access (CNS): NCCL goes through host memory → "
        "switch ACS off and boot with iommu=pt; if NCCL hangs, pass --env NCCL_P2P_DISABLE=1"
    )
    for peers, more in {
        ((0, 1, "CNS"),): "",
        ((0, 2, "NS"), (0, 1, "CNS"), (0, 3, "GNS"), (1, 2, "TNS")): " (and 1 more)",
    }.items():
        assert told(gpus.peer_access, examined(node(gpu_peers=peers))) == [line.format(more)]
    assert told(gpus.peer_access, examined(node(gpu_peers=((0, 1, "NS"), (0, 2, "GNS"))))) == []


DOWN = PORT.replace(state="DOWN")
ETHERNET_PORT = PORT.replace(link="Ethernet", rate="25 Gb/sec")
CABLE = "check the cable and the subnet manager: ibstat"
HCA = "name the adapters to use (--env NCCL_IB_HCA=...), or use none (--env NCCL_IB_DISABLE=1)"


@pytest.mark.parametrize(
    ("ports", "lines"),
    [
        ({"x/1": PORT, "x/2": PORT.replace(state="")}, []),
        ({"x/1": DOWN, "x/2": DOWN}, []),
        ({"x/1": PORT, "x/2": DOWN}, [f"warn b: of the RDMA ports, x/2 is not active → {CABLE}"]),
        (
            {"x/1": PORT, "x/2": DOWN, "x/3": DOWN},
            [f"warn b: of the RDMA ports, x/2, x/3 are not active → {CABLE}"],
        ),
        (
            {},
            [f"warn b: the RDMA adapters differ: none; on most hosts InfiniBand 200 Gb/sec (4X HDR) → {HCA}"],
        ),
        (
            {"x/1": PORT, "y/1": ETHERNET_PORT},
            [
                "warn b: the RDMA adapters differ: Ethernet 25 Gb/sec, InfiniBand 200 Gb/sec (4X HDR); "
                f"on most hosts InfiniBand 200 Gb/sec (4X HDR) → {HCA}"
            ],
        ),
    ],
)
def test_rdma_adapters(ports: dict[str, RdmaPort], lines: list[str]) -> None:
    usual = [node(name, rdma={"x/1": PORT}) for name in "cd"]
    assert told(gpus.adapters, examined(node("a"), node(rdma=ports), *usual)) == lines
