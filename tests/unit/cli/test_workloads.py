"""The bundled workloads: where they are found, and copies of them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from orchestrator.errors import UsageError
from orchestrator.operations.run.source import bundled, companions, described, resolve
from tests.conftest import ROOT
from tests.unit.cli.program import invoked, printed


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a folder of workloads that has nothing to do with orch."""
    (tmp_path / "workloads").mkdir()
    (tmp_path / "workloads" / "__init__.py").write_text("")
    (tmp_path / "workloads" / "train.py").write_text("raise SystemExit(9)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_bundled_workloads_are_those_beside_the_package() -> None:
    assert {file.parent for file in bundled().values()} == {ROOT / "workloads"}
    assert resolve("train").root == ROOT / "workloads"
    # The user's own script is one path away.
    assert resolve("workloads/train.py").root != ROOT / "workloads"
    assert set(described()) == set(bundled()) and all(described().values())


@pytest.mark.parametrize("name", bundled())
def test_a_copy_has_everything_that_it_imports(name: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said = invoked("workloads", "copy", name, "mine").stderr
    copied = {file.name for file in (folder / "mine").iterdir() if file.is_file()}
    assert bundled()[name].name in copied
    for file in (folder / "mine").glob("*.py"):
        assert file.read_bytes() == (ROOT / "workloads" / file.name).read_bytes()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (ROOT / "workloads" / f"{node.module}.py").exists():
                assert f"{node.module}.py" in copied
    assert set(capfd.readouterr().out.splitlines()) == {
        str(file.relative_to(folder)) for file in (folder / "mine").rglob("*") if file.is_file()
    }
    assert f"to run it: orch run mine/{bundled()[name].name}\n" in said


def test_a_script_needs_what_it_imports_and_the_data_it_names(folder: Path) -> None:
    (folder / "_one.py").write_text("import os, _two\n")
    (folder / "_two.py").write_text("from _one import it\nDATA = 'data/table.csv'\n")
    (folder / "data").mkdir()
    for name in ("texts.csv", "texts.LICENSE", "other.csv", "data/table.csv"):
        (folder / name).write_text("")
    (folder / "mine.py").write_text('"""Reads other.csv, or not."""\nfrom _one import it\nFILE = "texts.csv"\n')
    needed = {str(file.relative_to(folder)) for file in companions(folder / "mine.py")}
    assert needed == {"_one.py", "_two.py", "texts.csv", "texts.LICENSE", "data/table.csv"}


def test_a_copy_replaces_nothing_that_differs(folder: Path) -> None:
    printed("workloads", "copy", "train")
    # What is the same is no reason to refuse.
    printed("workloads", "copy", "hello_ddp.py")
    (folder / "_ranks.py").write_text("mine")
    (folder / "gpt.py").write_text("mine, too")
    with pytest.raises(UsageError, match=r"already there, and different: gpt\.py, _ranks\.py") as raised:
        printed("workloads", "copy", "gpt")
    assert raised.value.remedy == "pass --force, or another DIR"
    assert (folder / "_ranks.py").read_text() == "mine" and (folder / "gpt.py").read_text() == "mine, too"
    printed("workloads", "copy", "gpt", "--force")
    assert (folder / "gpt.py").read_bytes() == bundled()["gpt"].read_bytes()


def test_a_copy_that_is_not_possible_is_one_line(folder: Path) -> None:
    with pytest.raises(UsageError, match="no bundled workload 'trian'") as raised:
        printed("workloads", "copy", "trian")
    assert raised.value.remedy == "did you mean train?"
    (folder / "train.py").mkdir()
    with pytest.raises(UsageError, match=r"cannot write .*train\.py"):
        printed("workloads", "copy", "train", "--force")
    (folder / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write file"):
        printed("workloads", "copy", "train", "file/inner")
