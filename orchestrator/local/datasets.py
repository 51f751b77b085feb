"""Data sets that this machine fetches itself when their name is given for data."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from orchestrator.errors import SyncError

# Name -> the folder that torchvision makes of it, and how it is fetched to ``argv[1]``.
KNOWN = {
    "mnist": ("MNIST", "import sys; from torchvision.datasets import MNIST; MNIST(sys.argv[1], download=True)")
}
# When this is there, all of it is.
COMPLETE = ".complete"


def fetched(name: str, cache: Path) -> Path:
    """The folder of a known data set, fetched by torchvision unless it was before; raises SyncError."""
    folder_name, program = KNOWN[name]
    root = cache / "datasets"
    folder = root / folder_name
    if (root / (folder_name + COMPLETE)).exists():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([sys.executable, "-c", program, str(root)], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()] or ["it said nothing"]
        remedy = f"get it to this machine otherwise, and pass --data FOLDER/{folder_name}"
        if "No module named" in lines[-1]:
            remedy = "pip install torch torchvision here, or " + remedy
        raise SyncError(f"{name} could not be fetched by torchvision: {lines[-1][:300]}", remedy=remedy)
    (root / (folder_name + COMPLETE)).touch()
    return folder
