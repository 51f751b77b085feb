"""The folder says what code may touch and import; see docs/architecture.md."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "orchestrator"
MAY = {
    "errors": set(),
    "protocol": {"protocol"},
    "node": {"node", "protocol"},
    "core": {"core", "errors", "protocol"},
    "engine": {"engine", "core", "errors", "protocol"},
    "ui": {"ui", "core", "errors", "protocol"},
    "local": {"local", "core", "errors", "protocol"},
    "remote": {"remote", "core", "errors", "protocol"},
    "sandbox": {"sandbox", "errors"},
    "operations": {"operations", "engine", "ui", "local", "remote", "sandbox", "core", "errors", "protocol"},
    "dashboard": {"dashboard", "local", "core", "errors", "protocol"},
    "commands": {
        "commands",
        "dashboard",
        "operations",
        "engine",
        "ui",
        "local",
        "remote",
        "sandbox",
        "core",
        "errors",
        "protocol",
    },
    "api": {"operations", "ui", "core", "errors", "protocol"},
    "cli": {"cli", "commands", "operations", "ui", "core", "errors"},
    "__main__": {"cli"},
    "__init__": {"api", "errors"},
}
# Modules that a pure function has no use for.
WORLD = {
    "os",
    "socket",
    "subprocess",
    "threading",
    "asyncio",
    "time",
    "shutil",
    "tempfile",
    "fcntl",
    "fabric",
    "paramiko",
}
# The purpose of this module is to read a project's files.
READS_FILES = PACKAGE / "core" / "transfer" / "local_tree.py"
FILES = sorted(PACKAGE.rglob("*.py"))


def layer_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file: Path) -> Iterator[str]:
    """Yield the absolute names of everything that a file imports."""
    package = ["orchestrator", *file.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def test_imports_run_one_way() -> None:
    for file in FILES:
        for name in imports(file):
            first, _, rest = name.partition(".")
            if first == "orchestrator" and rest != "__version__":
                assert rest.split(".")[0] in MAY[layer_of(file)], f"{file} imports {name}"


def test_there_is_one_door_for_ssh() -> None:
    for file in FILES:
        if {name.partition(".")[0] for name in imports(file)} & {"fabric", "paramiko"}:
            assert file.parent == PACKAGE / "remote" / "ssh", file


@pytest.mark.parametrize("layer", ["node", "protocol"])
def test_what_goes_to_nodes_needs_the_standard_library_alone(layer: str) -> None:
    for file in (PACKAGE / layer).rglob("*.py"):
        for name in imports(file):
            first = name.partition(".")[0]
            # typing_extensions is for the type checker only: no node executes that line.
            if first != "orchestrator" and not name.startswith("typing_extensions."):
                assert first in sys.stdlib_module_names, f"{file} imports {name}"


def test_the_core_is_pure() -> None:
    for file in (PACKAGE / "core").rglob("*.py"):
        if file != READS_FILES:
            assert not {name.partition(".")[0] for name in imports(file)} & WORLD, file


def test_the_workloads_know_nothing_of_orch() -> None:
    for file in (ROOT / "workloads").glob("*.py"):
        assert "orchestrator" not in file.read_text(), file


def test_no_room_is_too_full() -> None:
    # One file a verb is its own measure.
    for folder in {file.parent for file in FILES} - {PACKAGE / "commands"}:
        assert len([file for file in folder.glob("*.py") if file.name != "__init__.py"]) <= 13, folder


@pytest.mark.parametrize(
    ("words", "never"),
    [
        (
            [
                "-c",
                "import orchestrator.ui.run, orchestrator.ui.doctor, orchestrator.ui.plan, orchestrator.ui.runs",
            ],
            {"fabric", "paramiko"},
        ),
        (["-m", "orchestrator", "--help"], {"fabric", "paramiko", "torch"}),
        (["-m", "orchestrator", "--version"], {"fabric", "torch", "rich"}),
        (["-m", "orchestrator", "plan", "--offline", "hello", "--nproc", "1"], {"fabric", "torch"}),
    ],
)
def test_what_is_not_needed_is_not_loaded(words: list[str], never: set[str], tmp_path: Path) -> None:
    (tmp_path / "hosts.yaml").write_text("hosts: {a: {address: 192.0.2.1}}")
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words],
        env={"PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    loaded = {
        line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")
    }
    assert "orchestrator" in loaded and not loaded & never
