"""Archives of images on this machine, as ``docker save`` and ``podman save`` write them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from orchestrator.core.inventory.hosts import Host
from orchestrator.core.inventory.sections.container import is_archive
from orchestrator.errors import SyncError, UsageError

MANIFEST = "manifest.json"
# Bytes that are read at once.
PIECE = 1 << 20
# Most bytes of a manifest or a configuration.
MOST_TEXT = 1 << 22
# The engines that can write an archive, and whether the engine has an image: exit code 0.
SAVING: Mapping[str, Sequence[str]] = {
    "podman": ("podman", "image", "exists"),
    "docker": ("docker", "image", "inspect"),
}


@dataclass(frozen=True)
class ImageArchive:
    """An archive of one image. ``config`` and ``layers`` are names in it, the layers in order.

    ``name`` is the image's first tag, or its id if it has none. ``image_id`` is the hash of its configuration, by
    which podman and docker know it.
    """

    path: Path
    name: str
    image_id: str
    tags: tuple[str, ...]
    config: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Unpacked:
    """An archive in pieces. ``folder`` holds the layers, named by their hashes.

    ``files``: the archive's other files by name. ``layers``: each layer's name in a new archive, and its file's.
    """

    folder: Path
    files: Mapping[str, str]
    layers: Mapping[str, str]


def archive_of(path: Path) -> ImageArchive:
    """Return what an archive says of its image. Raises UsageError if it is none, or holds several images."""
    try:
        with tarfile.open(path) as archive:
            images = json.loads(_text(archive, MANIFEST))
            if len(images) != 1:
                remedy = "save one image: podman save --format docker-archive -o FILE IMAGE"
                raise UsageError(f"image: {path} holds {len(images)} images: expected one", remedy=remedy)
            config = str(images[0]["Config"])
            digest = hashlib.sha256(_text(archive, config)).hexdigest()
    except OSError as error:
        raise UsageError(f"image: {path}: {error.strerror or error}") from None
    except (tarfile.TarError, KeyError, ValueError, TypeError, IndexError):
        remedy = (
            "save the image with: docker save -o FILE IMAGE, or podman save --format docker-archive -o FILE IMAGE"
        )
        raise UsageError(f"image: {path} is not an archive as docker save writes it", remedy=remedy) from None
    tags = tuple(str(tag) for tag in images[0].get("RepoTags") or ())
    layers = tuple(str(each) for each in images[0]["Layers"])
    return ImageArchive(path, tags[0] if tags else digest, digest, tags, config, layers)


def _text(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(name)
    return file.read(MOST_TEXT)


def unpacked(image: ImageArchive, cache: Path) -> Unpacked:
    """Return an archive in pieces, from ``cache`` if it was unpacked before. Raises SyncError."""
    folder = cache / "images" / image.image_id
    index = folder / "index.json"
    if not index.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(dir=folder.parent) as made, tarfile.open(image.path) as archive:
                (Path(made, "layers")).mkdir()
                layers = [_layer(archive, name, Path(made, "layers")) for name in image.layers]
                config = _text(archive, image.config).decode("utf-8")
                Path(made, "index.json").write_text(json.dumps({"layers": layers, "config": config}))
                Path(made).chmod(0o700)
                shutil.rmtree(folder, ignore_errors=True)
                Path(made).rename(folder)
                Path(made).mkdir()
        except (OSError, tarfile.TarError, KeyError) as error:
            raise SyncError(f"cannot unpack {image.path}: {error}") from None
    known: dict[str, Any] = json.loads(index.read_text())
    names = {f"{name}.tar": name for name in known["layers"]}
    config_name = f"{image.image_id}.json"
    manifest = [
        {
            "Config": config_name,
            "RepoTags": list(image.tags),
            "Layers": [f"{name}.tar" for name in known["layers"]],
        }
    ]
    files = {MANIFEST: json.dumps(manifest), config_name: known["config"]}
    return Unpacked(folder / "layers", files, names)


def _layer(archive: tarfile.TarFile, name: str, folder: Path) -> str:
    """Write a layer to a file named by its hash, and return the hash."""
    source = archive.extractfile(name)
    if source is None:
        raise KeyError(name)
    partial = folder / ".part"
    with partial.open("wb") as target:
        digest = _copied(source, target)
    partial.replace(folder / digest)
    return digest


def _copied(source: IO[bytes], target: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while piece := source.read(PIECE):
        digest.update(piece)
        target.write(piece)
    return digest.hexdigest()


def saved(image: str, cache: Path) -> ImageArchive | None:
    """Return an archive of an image in an engine of this machine; None if no engine has it. Raises SyncError."""
    for engine, asking in SAVING.items():
        if shutil.which(engine) is None:
            continue
        if subprocess.run([*asking, image], capture_output=True, check=False).returncode:
            continue
        folder = cache / "images"
        folder.mkdir(parents=True, exist_ok=True)
        name = hashlib.sha256(os.fsencode(image)).hexdigest()[:24]
        file = folder / f"{name}.tar"
        file.unlink(missing_ok=True)
        form = ["--format", "docker-archive"] if engine == "podman" else []
        done = subprocess.run(
            [engine, "save", *form, "-o", str(file), image], capture_output=True, text=True, check=False
        )
        if done.returncode:
            words = done.stderr.strip().splitlines() or ["it printed nothing"]
            raise SyncError(f"{engine} save {image} failed here: {words[-1]}")
        return archive_of(file)
    return None


def with_archives(hosts: Sequence[Host], beside: Path) -> tuple[Host, ...]:
    """Return the hosts with the images of the archives that ``image:`` names, relative to ``beside``.

    Raises UsageError.
    """
    known: dict[str, ImageArchive] = {}
    found = []
    for host in hosts:
        asked = host.container
        if asked is not None and is_archive(asked.image) and asked.archive is None:
            if asked.engine == "apptainer":
                what = f"{host.name}: image: {asked.image}: apptainer loads no archives"
                raise UsageError(what, remedy="name a .sif file on the host, or docker://IMAGE")
            if asked.image not in known:
                known[asked.image] = archive_of(beside / Path(asked.image).expanduser())
            image = known[asked.image]
            host = replace(host, container=replace(asked, image=image.name, archive=str(image.path)))
        found.append(host)
    return tuple(found)
