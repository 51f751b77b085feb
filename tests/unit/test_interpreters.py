"""The interpreters that a node finds: python3, environments in the usual places, and conda's list."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.node.probe import interpreters

ANSWERS = """#!/bin/sh
echo '{"executable": "/x", "version": "3.12.1", "packages": {%s}, "torchvision_wants": null}'
"""
TORCH = '"torch": "2.9.1"'


def install(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_interpreters_with_torch_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    usual = install(tmp_path / "bin" / "python3", ANSWERS % "")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
    wanted = [
        install(home / "venvs" / "train" / "bin" / "python", ANSWERS % TORCH),
        install(home / "project" / ".venv" / "bin" / "python", ANSWERS % TORCH),
        install(home / "miniforge3" / "envs" / "t" / "bin" / "python", ANSWERS % TORCH),
        install(tmp_path / "scratch" / "[env]" / "bin" / "python", ANSWERS % TORCH),
    ]
    install(home / "venvs" / "plain" / "bin" / "python", ANSWERS % "")
    install(home / "venvs" / "broken" / "bin" / "python", "#!/bin/sh\nexit 3\n")
    install(home / "venvs" / "rubbish" / "bin" / "python", "#!/bin/sh\necho '[1]'; echo nonsense\n")
    (home / "venvs" / "no" / "bin").mkdir(parents=True)
    (home / "venvs" / "no" / "bin" / "python").write_text("not to be executed")
    (home / ".conda").mkdir()
    (home / ".conda" / "environments.txt").write_text(f"{tmp_path}/scratch/[env]\n{tmp_path}/gone\n\n")
    found = [each for each in interpreters.with_torch() if str(tmp_path) in each.path]
    assert [(each.path, each.version, each.torch) for each in found] == [
        (usual, "3.12.1", None),
        *((path, "3.12.1", "2.9.1") for path in wanted),
    ]


def test_a_limited_number_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for number in range(interpreters.MOST + 5):
        install(tmp_path / "venvs" / f"v{number:02}" / "bin" / "python", ANSWERS % TORCH)
    assert len(interpreters.with_torch()) <= interpreters.MOST
