"""A stand-in for an environment with torch: what doctor reads of it, without torch's seconds of import."""

from __future__ import annotations

from pathlib import Path

from tests.namespaces import NodeHost
from tests.namespaces.files import NODE_HOME

TORCH = """
__version__ = "2.15.0"
class version: cuda = None
class cuda:
    device_count = staticmethod(lambda: 0)
"""
DISTRIBUTED = """
is_gloo_available = lambda: True
is_nccl_available = is_mpi_available = lambda: False
"""
PYTHON = f"{NODE_HOME}/standin/python"


def install(host: NodeHost) -> Path:
    """Install the stand-in on a host at ``PYTHON`` and return its folder, which a test may spoil."""
    folder = host.home / "standin"
    (folder / "torch").mkdir(parents=True)
    (folder / "torch" / "__init__.py").write_text(TORCH)
    (folder / "torch" / "distributed.py").write_text(DISTRIBUTED)
    for package, version, more in (
        ("torch", "2.15.0", ""),
        ("torchvision", "0.30.0", "Requires-Dist: torch==2.15.0\n"),
    ):
        about = folder / f"{package}-{version}.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n{more}")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexport PYTHONPATH={NODE_HOME}/standin\nexec python3 "$@"\n')
    python.chmod(0o755)
    return folder
