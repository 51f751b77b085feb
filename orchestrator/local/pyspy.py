"""The py-spy of this machine, which can be sent to nodes of the same kind: it is one static program."""

from __future__ import annotations

import hashlib
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PySpy:
    """A program for Linux. ``machine``: the kind of processor, as ``uname -m`` prints it."""

    path: Path
    sha: str
    machine: str


def found() -> PySpy | None:
    """Return the py-spy beside this interpreter or in PATH; None if there is none, or none for Linux."""
    if platform.system() != "Linux":
        return None
    for folder in (str(Path(sys.executable).parent), None):
        program = shutil.which("py-spy", path=folder)
        if program is not None:
            path = Path(program).resolve()
            return PySpy(path, hashlib.sha256(path.read_bytes()).hexdigest(), platform.machine())
    return None
