"""Environments: requirements files, projects, wheels."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from orchestrator.core.launch.environment import Environment, flattened, of_pyproject, wheel_platforms
from orchestrator.errors import UsageError


def packages(**files: str) -> str:
    """Return the flattened form of ``env/base.txt``; ``files`` maps names in ``env/`` to their texts."""
    texts = {f"env/{name}.txt": text for name, text in files.items()}
    return flattened("env/base.txt", texts.__getitem__)


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("torch==2.4\nnumpy\n", "torch==2.4\nnumpy"),
        ("  torch   >= 2 \n\n\t\n", "torch >= 2"),
        ("# a comment\n  # another\ntorch # why\nnumpy\t#why\n", "torch\nnumpy"),
        ("# see x #1\n", ""),
        ("a @ https://h/a.whl#sha256=1\n", "a @ https://h/a.whl#sha256=1"),
        (
            "torch \\\n  --hash=sha256:1 \\\n  --hash=sha256:2\nnumpy",
            "torch --hash=sha256:1 --hash=sha256:2\nnumpy",
        ),
        ("--index-url https://h/simple\n", "--index-url https://h/simple"),
        ("", ""),
    ],
)
def test_requirements_lose_comments_and_spaces(text: str, lines: str) -> None:
    assert packages(base=text) == lines


@pytest.mark.parametrize(
    "include", ["-r more.txt", "-rmore.txt", "--requirement more.txt", "--requirement=more.txt"]
)
def test_included_requirements_stand_where_they_are_included(include: str) -> None:
    found = packages(base=f"a\n{include}  # both\nd\n", more="b\n-r last.txt\n", last="c # c\n")
    assert found == "a\nb\nc\nd"


@pytest.mark.parametrize(
    "line",
    [
        ".",
        "./pkg",
        "../pkg",
        "/src/pkg",
        "file:///src/pkg",
        "-e .",
        "--editable=.",
        "-c limits.txt",
        "--constraint limits.txt",
        "-f wheels",
        "--find-links=wheels",
        "pkg @ file:///src/pkg",
    ],
)
def test_requirements_on_this_machine_are_refused_by_line(line: str) -> None:
    for path, files in (
        ("base", {"base": f"a\n# b\n  {line}  # c"}),
        ("more", {"more": f"\n\n{line}", "base": "-rmore.txt"}),
    ):
        with pytest.raises(UsageError) as refused:
            packages(**files)
        assert str(refused.value) == (
            f"env/{path}.txt line 3: {line!r} is on this machine only → "
            "name packages with their versions instead; orch syncs the project's own code itself"
        )


def test_the_dependencies_of_a_project() -> None:
    assert of_pyproject("p", '[project]\nname = "x"\ndependencies = ["torch>=2", "numpy"]\n') == "torch>=2\nnumpy"
    assert of_pyproject("p", "[project]\ndependencies = []\n") == ""
    for text in ("", "[project]\n", "[project]\ndependencies = 'torch'\n", "[project]\ndependencies = ['a', 1]\n"):
        with pytest.raises(UsageError) as refused:
            of_pyproject("sub/pyproject.toml", text)
        assert str(refused.value) == (
            "sub/pyproject.toml has no project.dependencies list → add it, or name a requirements.txt in env:"
        )
    with pytest.raises(UsageError, match=r"^sub/pyproject\.toml is not TOML: .+ \(at line 2, column 5\)$"):
        of_pyproject("sub/pyproject.toml", "[project]\na = ?")


def test_an_environment_is_found_by_its_packages_and_interpreter() -> None:
    made = Environment("requirements.txt", "torch==2.4\nnumpy", None)
    assert made.key == replace(made, source="other.txt").key and re.fullmatch("[0-9a-f]{32}", made.key)
    keys = {made.key, replace(made, python="/usr/bin/python3").key, replace(made, requirements="torch==2.4").key}
    assert len(keys) == 3
    assert made.folder("/w") == f"/w/.orch/envs/by-request/{made.key}"
    assert made.interpreter("/w") == f"/w/.orch/envs/by-request/{made.key}/bin/python"


OLD = ["manylinux_2_5_x", "manylinux1_x", "linux_x"]
SINCE_12 = ["manylinux_2_12_x", "manylinux2010_x", *[f"manylinux_2_{minor}_x" for minor in range(11, 5, -1)], *OLD]
SINCE_17 = [
    "manylinux_2_17_x",
    "manylinux2014_x",
    *[f"manylinux_2_{minor}_x" for minor in range(16, 12, -1)],
    *SINCE_12,
]


@pytest.mark.parametrize(
    ("libc", "platforms"),
    [
        ("glibc 2.5", OLD),
        ("glibc 2.12", SINCE_12),
        ("glibc 2.17", SINCE_17),
        ("glibc 2.19.1", ["manylinux_2_19_x", "manylinux_2_18_x", *SINCE_17]),
        ("glibc 2.4", ["linux_x"]),
        # A glibc whose version is unknown counts as the oldest that current wheels ask for.
        ("glibc", SINCE_17),
        ("glibc 2", SINCE_17),
        ("musl 1.2.4", ["musllinux_1_2_x", "musllinux_1_1_x"]),
        ("", ["musllinux_1_2_x", "musllinux_1_1_x"]),
    ],
)
def test_wheels_for_a_node_are_for_its_libc_or_an_older_one(libc: str, platforms: list[str]) -> None:
    assert wheel_platforms("x", libc) == platforms


def test_requirements_that_include_each_other_are_refused() -> None:
    files = {"a/r.txt": "-r s.txt", "a/s.txt": "torch\n-r ../a/r.txt"}
    with pytest.raises(UsageError, match=r"^a/r\.txt includes itself"):
        flattened("a/r.txt", files.__getitem__)


def test_a_comment_of_requirements_ends_with_its_line() -> None:
    assert flattened("r.txt", lambda _: "# c \\\ntorch \\\n  >=2 \\\n  ,<3\nx") == "torch >=2 ,<3\nx"


@pytest.mark.parametrize("line", ["pkg @ file:///x", "pkg@file:///x"])
def test_a_requirement_of_this_machine_is_refused(line: str) -> None:
    with pytest.raises(UsageError, match="is on this machine only"):
        flattened("r.txt", lambda _: line)


def test_a_project_that_is_no_table_lists_no_dependencies() -> None:
    with pytest.raises(UsageError, match=r"^p\.toml has no project\.dependencies list"):
        of_pyproject("p.toml", "project = 'x'")
