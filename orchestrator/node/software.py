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


def path_of(python):
    """Where the interpreter is, or how it was asked for. Its own name may be a link, the folder above is none."""
    found = shutil.which(os.path.expanduser(python or "python3"))
    if found is None:
        return python or "python3"
    return os.path.join(os.path.realpath(os.path.dirname(found)), os.path.basename(found))


def look(python, import_torch, packages):
    """``{"versions": ..., "torch": ...}``, each its facts or ``{"error": why}``; one process tells both.

    The versions of ``packages`` are among the former, where they are installed.
    """
    found = shutil.which(os.path.expanduser(python or "python3"))
    if found is None:
        return {"versions": {"error": "no such program"}, "torch": {"error": "no such program"}}
    error = None
    try:
        code, limit = (IMPORT, IMPORT_LIMIT) if import_torch else (VERSIONS, VERSIONS_LIMIT)
        text = bounded.run([found, "-c", code, json.dumps(packages)], limit)
    except bounded.Failed as failed:
        error, text = str(failed), failed.output
    facts = []
    for line in text.splitlines():
        try:
            value = json.loads(line)
        except ValueError:
            # What a start-up file printed.
            continue
        if isinstance(value, dict):
            facts.append(value)
    if not facts:
        error = error or "is not a working Python: it printed %r" % text[-100:]
        return {"versions": {"error": error}, "torch": {"error": error}}
    torch = facts[1] if len(facts) > 1 else {"error": error or "it printed nothing"}
    return {"versions": dict(facts[0], path=found), "torch": torch if import_torch else {}}
