"""Data sets that are given by name and downloaded by the control machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from orchestrator.errors import SyncError

# Name -> the folder that torchvision makes, and the program that downloads the data set to ``argv[1]``.
KNOWN = {
    "mnist": ("MNIST", "import sys; from torchvision.datasets import MNIST; MNIST(sys.argv[1], download=True)")
}
# Suffix of the file that marks a data set as complete.
COMPLETE = ".complete"


def fetched(name: str, cache: Path) -> Path:
    """Return the folder of a known data set, downloaded by torchvision if it is missing. Raises SyncError."""
    folder_name, program = KNOWN[name]
    root = cache / "datasets"
    folder = root / folder_name
    if (root / (folder_name + COMPLETE)).exists():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    done = subprocess.run([sys.executable, "-c", program, str(root)], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()] or ["it printed nothing"]
        remedy = f"get it to this machine by other means, and pass --data FOLDER/{folder_name}"
        if "No module named" in lines[-1]:
            remedy = "pip install torch torchvision here, or " + remedy
        raise SyncError(f"{name} could not be fetched by torchvision: {lines[-1][:300]}", remedy=remedy)
    (root / (folder_name + COMPLETE)).touch()
    return folder
