"""What a node's training interpreter has: versions from package metadata, and one import of torch beside them."""

import json
import os
import shutil

from . import bounded

IMPORT_LIMIT = 25.0
VERSIONS_LIMIT = 8.0
# importlib.metadata finds versions without importing torch, which would take seconds.
VERSIONS = """
import json, sys
from importlib import metadata, util
found = {}
for name in ("torch", "torchvision", "numpy", "nvidia-nccl-cu12", "nvidia-nccl-cu13", "nvidia-cudnn-cu12",
             "nvidia-cudnn-cu13"):
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
IMPORT = """
import json
import torch, torch.distributed as dist
found = {"cuda": torch.version.cuda, "devices": torch.cuda.device_count(),
         "backends": [name for name in ("gloo", "nccl", "mpi") if getattr(dist, "is_%s_available" % name)()]}
print("\\n" + json.dumps(found))
"""


def last_json(text):
    """The last line as JSON: what a noisy start-up file printed stands before it."""
    try:
        return json.loads(text.rstrip().splitlines()[-1])
    except (ValueError, IndexError):
        raise bounded.Failed("is not a working Python: it printed %r" % text[-100:]) from None


def path_of(python):
    """Where the interpreter is, or how it was asked for."""
    return shutil.which(os.path.expanduser(python or "python3")) or python or "python3"


def located(python):
    """The path of the interpreter; raises Failed."""
    found = shutil.which(os.path.expanduser(python or "python3"))
    if found is None:
        raise bounded.Failed("no such program")
    return found


def versions(python):
    """``{"path", "version", "packages"}``; raises Failed."""
    found = located(python)
    return dict(last_json(bounded.run([found, "-c", VERSIONS], VERSIONS_LIMIT)), path=found)


def imported(python):
    """What importing torch shows; raises Failed with the exception's last line."""
    return last_json(bounded.run([located(python), "-c", IMPORT], IMPORT_LIMIT))
