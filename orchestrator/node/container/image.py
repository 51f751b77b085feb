"""The verb ``image``: report the engine and its image; pull the image, or load it from layers that were sent."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
import tempfile

from ...protocol import frames
from ...protocol.container.image import LOAD, LOOK, AskImage
from ..host import paths
from ..store.environment import ToolOutput
from . import engine

# Number of last output lines to report if the engine fails.
LAST_WORDS = 6


def answer(request: AskImage, out: int) -> None:
    """Report the engine and the image, after the image has been pulled or loaded if it was missing."""
    known = engine.look(request.engine, request.image, request.workdir)
    if request.how == LOOK or known.error is not None or known.image_id is not None or known.engine is None:
        frames.send(out, known)
        return
    said = ToolOutput(out)
    if request.how == LOAD:
        done = load(known.engine, request, said)
    else:
        done = pull(known.engine, request.image, known.image, said)
    known = engine.look(request.engine, request.image, request.workdir)
    if known.image_id is None:
        words = [line for line in said.last if line.strip()][-LAST_WORDS:]
        what = "it reported success, but the image is not there" if done else "it printed nothing"
        known = known.replace(failed=tuple(words) or (what,))
    frames.send(out, known)


def pull(name: str, image: str, path: str, said: ToolOutput) -> bool:
    """Pull the image from its registry; return whether that succeeded."""
    if name != "apptainer":
        return said.run([name, "pull", image])
    if "://" not in image and image.endswith(".sif"):
        said.line("%s: no such file" % path)
        return False
    os.makedirs(os.path.dirname(path), exist_ok=True)
    part = "%s.part-%d" % (path, os.getpid())
    try:
        if not said.run([name, "pull", part, image if "://" in image else "docker://" + image]):
            return False
        os.replace(part, path)
        return True
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)


def load(name: str, request: AskImage, said: ToolOutput) -> bool:
    """Pack the layers into an archive as ``docker save`` does, and load it; return whether that succeeded."""
    base = os.path.expanduser(request.workdir)
    with tempfile.NamedTemporaryFile(dir=paths.own_dir(request.workdir), prefix=".image-", suffix=".tar") as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            for inner, text in request.files.items():
                entry = tarfile.TarInfo(inner)
                data = text.encode("utf-8")
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
            for inner, path in request.layers.items():
                archive.add(os.path.join(base, path), inner, recursive=False)
        file.flush()
        return said.run([name, "load", "--input", file.name])
