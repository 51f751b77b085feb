"""The built wheel, installed into an environment of its own and used in a folder without a checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.forked import free_port

SOURCES = ("pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE", "hosts.yaml")


def done(*words: str | Path, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, which has to be a good one."""
    ended = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended


@pytest.mark.torch
def test_the_wheel_trains_where_there_is_no_checkout(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for name in SOURCES:
        shutil.copy(ROOT / name, project)
    for name in ("orchestrator", "workloads", "docs"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    # uv makes the wheel from the source distribution, so that has to be complete, too.
    uv = Path(sys.executable).with_name("uv")
    done(
        uv,
        "build",
        "--no-build-isolation",
        "--offline",
        "--python",
        sys.executable,
        "-o",
        tmp_path,
        folder=project,
    )
    (wheel,), (sources,) = tmp_path.glob("orch_torch-*.whl"), tmp_path.glob("orch_torch-*.tar.gz")
    inside = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("orchestrator", "workloads"):
        needed = [
            file for file in (ROOT / folder).rglob("*") if file.is_file() and "__pycache__" not in file.parts
        ]
        assert {str(file.relative_to(ROOT)) for file in needed} <= inside
    assert not [name for name in inside if name.startswith(("tests", "docs", "benchmarks"))]
    with tarfile.open(sources) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "docs/installing.md", "hosts.yaml"} <= names

    # An environment with the wheel, and with the packages of this one instead of a download.
    made = tmp_path / "environment"
    done(sys.executable, "-m", "venv", "--without-pip", made, folder=tmp_path)
    (site,) = made.glob("lib/python*/site-packages")
    (site / "packages.pth").write_text("".join(f"{path}\n" for path in sys.path if "site-packages" in path))
    python = made / "bin" / "python"
    done(uv, "pip", "install", "--offline", "--no-deps", "--python", python, wheel, folder=tmp_path)
    empty, home = tmp_path / "empty", tmp_path / "home"
    empty.mkdir()
    home.mkdir()
    orch = made / "bin" / "orch"
    where = done(python, "-c", "import orchestrator; print(orchestrator.__file__)", folder=empty).stdout
    assert where.startswith(str(made))
    # A host's lock goes by its name, and other tests run on node1 and node2 meanwhile.
    hosts = ["--hosts", "sandbox:4", "--nodes", "node[3-4]"]
    words = ["run", "train", *hosts, "--port", str(free_port()), "--", "--dataset", "digits", "--epochs", "1"]
    ran = done(orch, *words, folder=empty, HOME=str(home), PYTHONPATH="")
    assert "Parameters are the same on all 2 ranks" in ran.stdout
    (run,) = (empty / "runs").glob("*-*-*")
    assert (run / "node3" / "snapshot.pt").is_file() and (run / "node4" / "snapshot.pt").is_file()
