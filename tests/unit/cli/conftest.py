"""A folder with a hosts file of three hosts and a script, which the tests of command lines run in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from orchestrator.core.launch.variables import local_settings

HOSTS = """
hosts:
  worker-1: {address: 192.168.1.1, gpus: 4}
  worker-2: {address: 192.168.1.2, gpus: 4}
  worker-3: {address: 192.168.1.3, gpus: 4}
"""
SCRIPT = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--epochs")
parser.add_argument("--lr")
parser.add_argument("--arg1")
parser.add_argument("--arg2")
parser.add_argument("--batch_size")
parser.add_argument("--port")
parser.add_argument("--deepspeed", action=argparse.BooleanOptionalAction)
parser.add_argument("--deepspeed_config")
parser.add_argument("--num_workers", "-j", type=int)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Enter a project's folder, with no settings exported."""
    (tmp_path / "hosts.yaml").write_text(HOSTS)
    (tmp_path / "myhostfile").write_text(HOSTS)
    (tmp_path / "train.py").write_text(SCRIPT)
    (tmp_path / "train.sh").write_text("")
    monkeypatch.chdir(tmp_path)
    settings = local_settings(dict(os.environ))
    for name in (*settings.travel, *settings.stay, "ORCH_HOSTS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path
