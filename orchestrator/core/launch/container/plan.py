"""The container of one node's launcher, and where its folders come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from orchestrator.core.inventory.sections.container import Container, Mount
from orchestrator.protocol.container.image import EngineFacts


@dataclass(frozen=True)
class ContainerPlan:
    """A container on one node. All paths are absolute there.

    ``name`` is the container's, different from that of any other. ``user`` is ``uid:gid`` of the login, ``login``
    its name. ``home`` is the folder that HOME names in the container. ``gpu`` is the maker of the GPUs to pass on,
    None for no GPUs.
    """

    engine: str
    image: str
    name: str
    user: str
    login: str
    home: str
    mounts: tuple[Mount, ...] = ()
    gpu: str | None = None
    devices: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def root(self) -> bool:
        """Whether the login is root."""
        return self.user.startswith("0:")

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of orch's own that the container mounts; they are made before it starts."""
        return tuple(mount.source for mount in self.mounts if mount.ours)


@dataclass(frozen=True)
class InContainer:
    """A command that runs in a container: the engine's argv, the engine's variables, and the argv that removes it.

    ``hidden`` names the variables whose values are never shown. ``remove`` is empty if the engine keeps no record
    of its containers.
    """

    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()
    remove: tuple[str, ...] = ()


def container_plan(
    asked: Container,
    known: EngineFacts,
    name: str,
    *,
    login: str,
    workdir: str,
    home: str,
    gpus: bool,
    own: Sequence[Mount] = (),
) -> ContainerPlan:
    """Return the plan of a container on a node whose engine reports ``known``.

    ``workdir`` and ``home`` are the node's. ``gpus``: whether to pass the GPUs on. ``own``: folders to mount
    besides the container's home folder and those of the inventory.
    """
    folder = f"{workdir}/.orch/home"
    mounts = [*own, Mount(folder, folder, ours=True)]
    for each in asked.mounts:
        source = f"{home}/{each.source[2:]}" if each.source.startswith("~/") else each.source
        target = f"{home}/{each.target[2:]}" if each.target.startswith("~/") else each.target
        mounts.append(replace(each, source=source, target=target))
    return ContainerPlan(
        engine=known.engine or ("podman" if asked.engine == "auto" else asked.engine),
        image=known.image or asked.image,
        name=name,
        user=f"{known.uid}:{known.gid}",
        login=login,
        home=folder,
        mounts=tuple(mounts),
        gpu=known.gpu if gpus else None,
        devices=known.devices,
        options=asked.options,
    )
