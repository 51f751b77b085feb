"""Ask the training interpreter for the versions of its packages, and let it import torch."""

from __future__ import annotations

import contextlib
import json
import os
import shutil

from ...protocol.facts import Torch, Versions
from ...protocol.shapes import Misshapen
from ..host import bounded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...protocol.container.process import Contained

# Time limits of the interpreter with and without an import of torch, in seconds.
IMPORT_LIMIT = 25.0
VERSIONS_LIMIT = 8.0
# How much longer an interpreter in a container may take, in seconds: some storages copy the whole image first.
CONTAINER_LIMIT = 20.0
# importlib.metadata finds versions without importing torch, which would take seconds.
VERSIONS = """
import json, sys
from importlib import metadata, util
found = {}
for name in ["torch", "torchvision", "numpy", "nvidia-nccl-cu12", "nvidia-nccl-cu13", "nvidia-cudnn-cu12",
             "nvidia-cudnn-cu13"] + json.loads(sys.argv[1]):
    try:
        found[name] = metadata.version(name)
    except Exception:
        continue
wants = [each for each in (metadata.requires("torchvision") if "torchvision" in found else None) or ()
         if each.replace(" ", "").startswith("torch==")]
if "torch" not in found and util.find_spec("torch") is not None:
    found["torch"] = "unknown"
print("\\n" + json.dumps({"executable": sys.executable, "version": "%d.%d.%d" % sys.version_info[:3],
      "packages": found, "torchvision_wants": wants[0].partition("==")[2].strip() if wants else None}))
"""
IMPORT = (
    VERSIONS
    + """
sys.stdout.flush()
import torch, torch.distributed as dist
print(json.dumps({"cuda": torch.version.cuda, "devices": torch.cuda.device_count(),
      "backends": [name for name in ("gloo", "nccl", "mpi") if getattr(dist, "is_%s_available" % name)()]}))
"""
)


class Software:
    """The facts that the interpreter reports.

    ``error``: why ``versions`` is None. ``torch_error``: why ``torch`` is None.
    """

    def __init__(
        self, versions: Versions | None, torch: Torch | None, error: str | None, torch_error: str | None
    ) -> None:
        self.versions = versions
        self.torch = torch
        self.error = error
        self.torch_error = torch_error


def path_of(python: str | None) -> str:
    """Return the interpreter's path, or ``python`` if it is not found.

    Links in the path of its folder are resolved; the last name may be a link.
    """
    found = shutil.which(os.path.expanduser(python or "python3"))
    if found is None:
        return python or "python3"
    return os.path.join(os.path.realpath(os.path.dirname(found)), os.path.basename(found))


def look(
    python: str | None,
    import_torch: bool,
    packages: Sequence[str],
    inside: Sequence[str] = (),
    container: Contained | None = None,
) -> Software:
    """Ask the interpreter for versions and, if ``import_torch``, for what torch reports; one process does both.

    ``packages``: distributions whose versions to report as well. ``inside``: words that start the interpreter in
    the ``container``; with a ``container`` and no such words, there is no interpreter yet.
    """
    if container is not None and not inside:
        return Software(None, None, "its container's image is not there", "its container's image is not there")
    found = (python or "python3") if inside else shutil.which(os.path.expanduser(python or "python3"))
    if found is None:
        return Software(None, None, "no such program", "no such program")
    for folder in container.folders if container is not None else ():
        os.makedirs(os.path.expanduser(folder), exist_ok=True)
    error = None
    code, limit = (IMPORT, IMPORT_LIMIT) if import_torch else (VERSIONS, VERSIONS_LIMIT)
    try:
        argv = [*inside, found, "-c", code, json.dumps(packages)]
        text = bounded.run(argv, limit + (CONTAINER_LIMIT if inside else 0.0))
    except bounded.NoAnswer as failed:
        error, text = str(failed), failed.output
        if container is not None and container.remove:
            # The engine was ended, if it took too long, and its container may go on.
            with contextlib.suppress(bounded.NoAnswer):
                bounded.run(container.remove, VERSIONS_LIMIT)
    facts = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            # A start-up file of the interpreter printed this line.
            continue
        if isinstance(value, dict):
            facts.append(value)
    try:
        versions = Versions.from_wire(dict(facts[0], path=found)) if facts else None
        torch = Torch.from_wire(facts[1]) if len(facts) > 1 else None
    except Misshapen as misshapen:
        error, versions, torch = str(misshapen), None, None
    if versions is None:
        error = error or "not a working Python: it printed %r" % text[-100:]
        return Software(None, None, error, error)
    return Software(versions, torch, None, None if torch is not None else error or "it printed nothing")
