"""Find a node's container engine, and bring an image into its storage.

The verb ``image`` answers ``AskImage`` with any number of ``Said``, then with ``EngineFacts``.
"""

from __future__ import annotations

from ..message import Message, of
from ..shapes import flag, maybe, one_of, table, text, whole
from ..terms import PATH, PATHS, WORDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

# What ``AskImage`` may ask for besides a look.
LOOK, PULL, LOAD = "look", "pull", "load"
ENGINES = ("podman", "docker", "apptainer")
UID = whole(0, 1 << 32)


class AskImage(Message):
    """Sent by the control side: report the container engine and its image; answered by ``EngineFacts``.

    ``engine``: the engine to use, or ``auto`` for the first that is installed.
    ``image``: its name in the engine's storage, or a ``.sif`` file for apptainer; ``~`` is expanded.
    ``workdir``: folder for images that apptainer pulls and for layers that are sent.
    ``how``: ``look``; or ``pull`` the image from its registry, or ``load`` it from layers, if it is missing.
    ``layers``: paths of the layers below ``workdir``, in order, by their names in the archive to load.
    ``files``: contents of the archive's other files by name.
    """

    VERB: ClassVar[str] = "image"
    engine: str = of(one_of("auto", *ENGINES))
    image: str = of(PATH)
    workdir: str = of(PATH, default="~")
    how: str = of(one_of(LOOK, PULL, LOAD), default=LOOK)
    layers: dict[str, str] = of(table(PATH, 4096, PATH), default={})
    files: dict[str, str] = of(table(text(1 << 22), 16, PATH), default={})


class EngineFacts(Message):
    """What a node reports of its container engine.

    ``engine``: its name; None if none is installed. ``version``: what it prints; empty if it prints nothing.
    ``error``: why it cannot be used; None if it can. ``refused``: whether this user lacks the right to use it.
    ``image``: name by which the image is started. ``image_id``: the image's id; None if the image is not there.
    ``failed``: last lines of the engine when it could neither pull nor load the image.
    ``uid``, ``gid``, ``login`` and ``home``: of this user. ``workdir``: the requested one, with ``~`` expanded.
    ``gpu``: ``nvidia`` or ``amd``; None if the node has no GPU driver.
    ``gpu_runtime``: whether the engine can pass the GPUs on. ``devices``: further devices to pass on.
    """

    engine: str | None = of(maybe(one_of(*ENGINES)))
    version: str = of(text(256), default="")
    error: str | None = of(maybe(text()), default=None)
    refused: bool = of(flag, default=False)
    image: str = of(PATH, default="")
    image_id: str | None = of(maybe(text(256)), default=None)
    failed: tuple[str, ...] = of(WORDS, default=())
    uid: int = of(UID, default=0)
    gid: int = of(UID, default=0)
    login: str = of(text(256), default="")
    home: str = of(text(8192), default="")
    workdir: str = of(text(8192), default="")
    gpu: str | None = of(maybe(one_of("nvidia", "amd")), default=None)
    gpu_runtime: bool = of(flag, default=True)
    devices: tuple[str, ...] = of(PATHS, default=())
