"""Find the container engine, and ask it for an image."""

from __future__ import annotations

import getpass
import glob
import os
import shutil

from ...protocol.container.image import ENGINES, EngineFacts
from ..host import bounded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Longest time that an engine may take to answer a question, in seconds.
LIMIT = 20.0
# What podman and docker print if an image is not in their storage.
NO_IMAGE = ("no such image", "image not known", "no such object")
# What engines print if this user may not use them: docker's socket, the kernel, podman without subordinate ids.
REFUSED = ("permission denied", "operation not permitted", "newuidmap", "no subuid ranges", "cannot find mappings")
# Folders of the Container Device Interface's specifications, by which engines pass GPUs on.
CDI = ("/etc/cdi", "/var/run/cdi")


def found(engine: str) -> str | None:
    """Return the name of the engine to use, or None; ``auto`` stands for the first that is installed."""
    names: Sequence[str] = ENGINES if engine == "auto" else (engine,)
    for name in names:
        if shutil.which(name) is not None:
            return name
    return None


def look(engine: str, image: str, workdir: str) -> EngineFacts:
    """Return the facts of the engine and of the image in its storage."""
    name = found(engine)
    kind = gpu()
    mine = EngineFacts(
        engine=name,
        image=image,
        uid=os.getuid(),
        gid=os.getgid(),
        login=getpass.getuser(),
        home=os.path.expanduser("~"),
        workdir=os.path.expanduser(workdir),
        gpu=kind,
        devices=tuple(path for path in ("/dev/infiniband",) if os.path.isdir(path)),
    )
    if name is None:
        return mine.replace(error="not installed")
    mine = mine.replace(version=version(name), gpu_runtime=kind is None or passes_gpus(name, kind))
    if name == "apptainer":
        path = sif(image, workdir)
        return mine.replace(image=path, image_id=identity(path) if os.path.exists(path) else None)
    try:
        text = bounded.run([name, "image", "inspect", "--format", "{{.Id}}", image], LIMIT)
        return mine.replace(image_id=text.split()[-1] if text.split() else None)
    except bounded.NoAnswer as error:
        said = str(error)
        if any(words in said.lower() for words in NO_IMAGE):
            return mine
        refused = any(words in said.lower() for words in REFUSED)
        return mine.replace(error=said, refused=refused)


def version(engine: str) -> str:
    """Return the first line that ``ENGINE --version`` prints, or an empty text."""
    try:
        return (bounded.run([engine, "--version"], LIMIT).strip().splitlines() or [""])[0][:256]
    except bounded.NoAnswer:
        return ""


def sif(image: str, workdir: str) -> str:
    """Return the path of apptainer's image file: the named one, or where a pulled image is kept."""
    if "://" not in image and (image.startswith(("/", "~")) or image.endswith(".sif")):
        return os.path.expanduser(image)
    plain = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in image.split("://")[-1])
    return os.path.join(os.path.expanduser(workdir), ".orch", "images", plain + ".sif")


def identity(path: str) -> str:
    """Return the id that apptainer wrote into an image file (sif, "Header": 128 bits at offset 48)."""
    try:
        with open(path, "rb") as file:
            return file.read(64)[48:].hex()
    except OSError:
        return ""


def gpu() -> str | None:
    """Return the maker of the node's GPUs, ``nvidia`` or ``amd``, by the kernel's driver; None without GPUs."""
    if os.path.exists("/dev/nvidiactl") or glob.glob("/proc/driver/nvidia/gpus/*"):
        return "nvidia"
    return "amd" if os.path.exists("/dev/kfd") else None


def passes_gpus(engine: str, kind: str) -> bool:
    """Return whether the engine can pass GPUs on: podman by a CDI specification, docker by NVIDIA's runtime."""
    if kind != "nvidia" or engine == "apptainer":
        return True
    specified = [path for folder in CDI for path in glob.glob(folder + "/*") if mentions(path, "nvidia.com/gpu")]
    if specified or engine == "podman":
        return bool(specified)
    try:
        return "nvidia" in bounded.run([engine, "info", "--format", "{{json .Runtimes}}"], LIMIT)
    except bounded.NoAnswer:
        return False


def mentions(path: str, words: str) -> bool:
    """Return whether a file contains these words."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return words in file.read(1 << 20)
    except OSError:
        return False
