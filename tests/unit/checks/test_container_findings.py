"""The exact findings about container engines and images."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.core.checks import containers, software
from orchestrator.core.inventory.sections.container import Container
from orchestrator.protocol.container.image import EngineFacts
from orchestrator.protocol.facts import Interpreter
from tests.unit.checks.facts import examined, node, told

IMAGE = "pytorch/pytorch:2.14.1"
FINE = EngineFacts(engine="podman", image=IMAGE, image_id="sha256:3f5a19c20e8b77aa", uid=1000, gid=1000)
DOCKER = FINE.replace(engine="docker")
DENIED = "exit code 1: permission denied while trying to connect to the docker API"
KEEP_ID = "exit code 125: Error: keep-id requires additional UIDs or GIDs defined in /etc/subuid and /etc/subgid"
SUBIDS = "run there as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 u"
ELSE = "install podman there, or set engine: to one that is installed, or leave out container:"


def seen(engine: EngineFacts, asked: str = "auto", **changes: Any) -> Any:
    known = node("b", {"engine": engine, **changes})
    return examined(known, host={"container": Container(IMAGE, engine=asked)})


@pytest.mark.parametrize(
    ("engine", "asked", "line"),
    [
        (FINE, "auto", None),
        (FINE.replace(image_id=None), "auto", None),
        (
            EngineFacts(engine=None, error="not installed"),
            "auto",
            f"fail b: no container engine is installed: neither podman, docker nor apptainer → {ELSE}",
        ),
        (
            EngineFacts(engine=None, error="not installed"),
            "docker",
            f"fail b: the container engine docker is not installed → {ELSE}",
        ),
        (
            DOCKER.replace(error=DENIED, refused=True),
            "auto",
            "fail b: u has no right to use docker: permission denied while trying to connect to the docker API → run "
            "there as root: usermod -aG docker u; then log in anew, or set engine: podman",
        ),
        (
            FINE.replace(error="exit code 125: newuidmap: no such file", refused=True),
            "auto",
            f"fail b: u has no right to use podman: newuidmap: no such file → {SUBIDS}",
        ),
        (
            DOCKER.replace(error="exit code 1: Cannot connect to the Docker daemon"),
            "docker",
            "fail b: docker does not work: Cannot connect to the Docker daemon → try it there: docker image ls",
        ),
        (
            FINE.replace(error="no answer within 20 s"),
            "auto",
            "fail b: podman does not work: no answer within 20 s → try it there: podman image ls",
        ),
    ],
)
def test_the_engine(engine: EngineFacts, asked: str, line: str | None) -> None:
    assert told(containers.engine, seen(engine, asked)) == [*filter(None, [line])]


def test_images_are_there_and_the_same_everywhere() -> None:
    other = FINE.replace(image_id="sha256:91c0b7e1f2d4aaaa")
    known = [node("a", {"engine": FINE}), node("b", {"engine": other}), node("c", {"engine": FINE})]
    host = {"container": Container(IMAGE)}
    assert told(containers.images, examined(*known, host=host)) == [
        f"fail b: the image {IMAGE} is 91c0b7e1f2d4, but 3f5a19c20e8b on most hosts → fetch it anew there: "
        f"podman rmi {IMAGE}, then orch sync"
    ]
    assert told(containers.images, seen(FINE.replace(image_id=None))) == [
        f"warn b: the image {IMAGE} is not in podman's storage yet → bring it with orch sync; orch run does so, too"
    ]
    assert told(containers.images, seen(FINE)) == told(containers.images, seen(other.replace(error="x"))) == []


@pytest.mark.parametrize(
    ("engine", "gpus", "line"),
    [
        (FINE, 8, None),
        (FINE.replace(gpu="nvidia", gpu_runtime=False), 0, None),
        (
            FINE.replace(gpu="nvidia", gpu_runtime=False),
            8,
            "fail b: podman cannot pass on GPUs: there is no CDI specification of nvidia.com/gpu → install "
            "nvidia-container-toolkit there, then: sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
        ),
        (
            DOCKER.replace(gpu="nvidia", gpu_runtime=False),
            8,
            "fail b: docker cannot pass on GPUs: NVIDIA's runtime is not set up → install nvidia-container-toolkit "
            "there, then: sudo nvidia-ctk runtime configure --runtime=docker",
        ),
    ],
)
def test_gpus_reach_the_container(engine: EngineFacts, gpus: int, line: str | None) -> None:
    assert told(containers.gpu_runtime, seen(engine, gpus=gpus)) == [*filter(None, [line])]


@pytest.mark.parametrize(
    ("python", "line"),
    [
        (Interpreter(path="python3", version="3.11.2", torch="2.14.1"), None),
        (
            Interpreter(path="python3", version="3.11.2"),
            f"fail b: python3 (Python 3.11.2) in the image {IMAGE} has no torch → name an image with torch, or set "
            "python: to another interpreter in the image",
        ),
        (
            Interpreter(path="python3", error="exit code 127: python3: not found"),
            f"fail b: python3 in the image {IMAGE} cannot be used: exit code 127: python3: not found → set python: to "
            "an interpreter in the image, and container.options: as needed",
        ),
        (
            Interpreter(path="python3", error=KEEP_ID),
            f"fail b: u has no right to use podman: no subordinate user ids → {SUBIDS}",
        ),
    ],
)
def test_the_interpreter_in_the_image(python: Interpreter, line: str | None) -> None:
    assert told(software.interpreter, seen(FINE, python=python)) == [*filter(None, [line])]
    # Before the image is there, nothing can be said.
    assert told(software.interpreter, seen(FINE.replace(image_id=None), python=python)) == []
