"""The key ``container:`` of a hosts file: the container that a host's ranks run in."""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.protocol.container.image import ENGINES

KEYS = ("image", "engine", "options", "mounts")
ENGINE_CHOICES = ("auto", *ENGINES)
# A reference such as docker.io/pytorch/pytorch:2.8.0, docker://ubuntu, or a path.
IMAGE = re.compile(r"[A-Za-z0-9./~_][A-Za-z0-9./~_:@+-]*\Z")
ARCHIVE = re.compile(r"\.tar(\.gz|\.xz|\.bz2)?\Z")


@dataclass(frozen=True)
class Mount:
    """A folder or file of the host at a path in the container. ``ours``: orch makes the folder."""

    source: str
    target: str
    writable: bool = True
    ours: bool = False

    def __str__(self) -> str:
        """Return the mount as a hosts file names it."""
        end = "" if self.writable else ":ro"
        return f"{self.source}:{self.target}{end}" if end or self.source != self.target else self.source


@dataclass(frozen=True)
class Container:
    """The container of a host: its image, and what is added to the engine's command line.

    ``archive`` is the file on the control machine that holds the image, if the inventory names one; orch sends it.
    """

    image: str
    engine: str = "auto"
    options: tuple[str, ...] = ()
    mounts: tuple[Mount, ...] = ()
    archive: str | None = None

    def __str__(self) -> str:
        """Return one line for ``orch hosts``."""
        more = [f"engine {self.engine}"]
        more += [f"options {' '.join(self.options)}"] if self.options else []
        more += [f"mounts {', '.join(map(str, self.mounts))}"] if self.mounts else []
        return f"{self.image} ({'; '.join(more)})"


def is_archive(image: str) -> bool:
    """Return whether ``image:`` names an archive on the control machine instead of an image."""
    return ARCHIVE.search(image) is not None


def parsed_mount(text: str) -> Mount | None:
    """Return the mount that ``PATH``, ``PATH:TARGET`` or ``PATH:TARGET:ro`` stands for; None for anything else."""
    source, *rest = text.split(":")
    writable = True
    if rest and rest[-1] in ("ro", "rw"):
        writable = rest.pop() == "rw"
    target = rest[0] if rest else source
    if len(rest) > 1 or not all(each.startswith(("/", "~/")) and "," not in each for each in (source, target)):
        return None
    return Mount(source, target, writable)
