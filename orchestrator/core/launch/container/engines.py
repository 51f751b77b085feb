"""The container engines by name, and a node's command turned into one that runs in a container."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

from orchestrator.core.inventory.sections.container import Mount
from orchestrator.core.launch.container.apptainer import PREFIX, apptainer
from orchestrator.core.launch.container.oci import docker, podman
from orchestrator.core.launch.container.plan import ContainerPlan, InContainer
from orchestrator.protocol.container.process import Contained

Engine = Callable[[ContainerPlan, str, Sequence[str], Mapping[str, str], Collection[str]], InContainer]
ENGINES: Mapping[str, Engine] = {
    "podman": podman,
    "docker": docker,
    "apptainer": apptainer,
}


def in_container(
    plan: ContainerPlan,
    cwd: str,
    argv: Sequence[str],
    env: Mapping[str, str],
    *,
    path: str = "",
    files: Sequence[str] = (),
    hidden: frozenset[str] = frozenset(),
) -> InContainer:
    """Return the command that runs ``argv`` in a container, with the variables ``env`` there.

    ``path``: PATH of the engine, which is the host's. ``files`` are mounted at their own paths, read-only.
    ``hidden`` names the variables whose values are never shown.
    """
    mounts = (*plan.mounts, *(Mount(file, file, writable=False) for file in files))
    made = ENGINES[plan.engine](replace(plan, mounts=mounts), cwd, argv, env, hidden)
    own = {"PATH": path} if path else {}
    hidden |= {f"{PREFIX}{name}" for name in hidden}
    return replace(made, env={**own, **made.env}, hidden=hidden)


def contained(plan: ContainerPlan, made: InContainer) -> Contained:
    """Return what a node must know of the container beside its command line."""
    return Contained(name=plan.name, remove=made.remove, folders=plan.folders)
