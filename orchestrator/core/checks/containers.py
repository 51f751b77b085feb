"""Checks of container engines and images."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.core.checks.findings import Examined, Finding, fail, most_common, warn
from orchestrator.core.checks.remedies import as_root
from orchestrator.core.inventory.hosts import Host
from orchestrator.core.launch.plan import gpus_of
from orchestrator.protocol.container.image import EngineFacts


def unusable(host: Host, known: EngineFacts, user: str) -> tuple[str, str] | None:
    """Return why the host's container engine cannot be used, and a remedy; None if it can."""
    asked = host.container.engine if host.container is not None else "auto"
    if known.error is None:
        return None
    if known.engine is None:
        what = "no container engine is installed: neither podman, docker nor apptainer"
        if asked != "auto":
            what = f"the container engine {asked} is not installed"
        return what, "install podman there, or set engine: to one that is installed, or leave out container:"
    said = known.error.partition(": ")[2] or known.error
    if not known.refused:
        return f"{known.engine} does not work: {said}", f"try it there: {known.engine} image ls"
    return no_right(known, user, said)


def no_right(known: EngineFacts, user: str, said: str) -> tuple[str, str]:
    """Return what to say of a user who may not use the engine, and a remedy. ``said``: the engine's reason."""
    what = f"{user} has no right to use {known.engine}: {said}"
    if known.engine == "docker":
        return what, f"run there as root: usermod -aG docker {user}; then log in anew, or set engine: podman"
    return what, f"run there as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"


def lacks_subordinate_ids(error: str) -> bool:
    """Return whether podman failed to start a container because the user has no ids to map into it."""
    return "keep-id requires additional UIDs" in error


def engine(examined: Examined) -> Iterator[Finding]:
    """Check that the engine of each host with a container can be used."""
    for host in examined.hosts:
        facts = examined.facts[host.name]
        problem = unusable(host, facts.engine, facts.user) if facts.engine is not None else None
        if problem is not None:
            yield fail(host.name, *problem)


def images(examined: Examined) -> Iterator[Finding]:
    """Check that the image is there, and the same one on all hosts that name it."""
    ids: dict[str, dict[str, str]] = {}
    for host in examined.hosts:
        known = examined.facts[host.name].engine
        if host.container is None or known is None or known.error is not None:
            continue
        if known.image_id is None:
            what = f"the image {host.container.image} is not in {known.engine}'s storage yet"
            yield warn(host.name, what, "bring it with orch sync; orch run does so, too")
        else:
            ids.setdefault(host.container.image, {})[host.name] = known.image_id
    for image, by_host in ids.items():
        usual = most_common(by_host)
        for name, image_id in by_host.items():
            if image_id != usual:
                engine_name = examined.facts[name].engine
                tool = engine_name.engine if engine_name is not None else "podman"
                what = f"the image {image} is {_short(image_id)}, but {_short(usual)} on most hosts"
                yield fail(name, what, f"fetch it anew there: {tool} rmi {image}, then orch sync")


def gpu_runtime(examined: Examined) -> Iterator[Finding]:
    """Check that the engine can pass GPUs on where a container is to use them."""
    for host in examined.hosts:
        facts = examined.facts[host.name]
        known = facts.engine
        if known is None or known.error is not None or known.gpu_runtime or not gpus_of(host, facts):
            continue
        if known.engine == "docker":
            what = "docker cannot pass on GPUs: NVIDIA's runtime is not set up"
            command = "nvidia-ctk runtime configure --runtime=docker"
        else:
            what = f"{known.engine} cannot pass on GPUs: there is no CDI specification of nvidia.com/gpu"
            command = "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
        remedy = f"install nvidia-container-toolkit there, then: {as_root(examined.system(host.name), command)}"
        yield fail(host.name, what, remedy)


def _short(image_id: str) -> str:
    return image_id.removeprefix("sha256:")[:12]
