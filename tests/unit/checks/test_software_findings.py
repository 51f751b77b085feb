"""The exact findings about interpreters and packages."""

from __future__ import annotations

import pytest

from orchestrator.core.checks import software
from orchestrator.protocol.facts import (
    Interpreter,
)
from tests.unit.checks.facts import (
    PYTHON,
    VERSIONS,
    examined,
    node,
    told,
)


@pytest.mark.parametrize(
    ("python", "environment", "line"),
    [
        (PYTHON, None, None),
        (
            Interpreter(path="/py", error="no such file"),
            None,
            "fail b: interpreter '/py' cannot be used: no such file → "
            "set python: for this host to an interpreter that works there",
        ),
        (
            Interpreter(path="/py", error="no such file"),
            "env.txt",
            "warn b: the environment (env.txt) is not built yet → build it with orch sync; orch run builds it, too",
        ),
        (
            PYTHON.replace(torch=None),
            None,
            "fail b: /py (Python 3.11.2) has no torch → "
            "run there: /py -m pip install torch; or set python: to another interpreter",
        ),
    ],
)
def test_the_interpreter(python: Interpreter, environment: str | None, line: str | None) -> None:
    seen = examined(node(facts={"python": python}), host={"environment": environment})
    assert told(software.interpreter, seen) == ([] if line is None else [line])


def test_torch_that_cannot_be_imported() -> None:
    why = {"unanswered": {"torch": "OSError: libcudnn"}}
    assert told(software.torch_imports, examined(node(**why))) == [
        "fail b: /py cannot import torch: OSError: libcudnn → see the whole error there: /py -c 'import torch'"
    ]
    # The check of the interpreter reports these.
    for python in (PYTHON.replace(torch=None), PYTHON.replace(error="killed")):
        assert told(software.torch_imports, examined(node(facts={"python": python}, **why))) == []


def test_torchvision_needs_the_torch_that_it_was_built_for() -> None:
    for wants, has, line in (
        ("2.5.1", "2.5.1+cu124", None),
        ("2.5.1+cpu", "2.5.1", None),
        (None, "2.5.1", None),
        (
            "2.5.1",
            "2.6.0+cu124",
            "torchvision 0.20 needs torch 2.5.1, but torch 2.6.0+cu124 is installed: its import will fail → "
            "run there: /py -m pip install torchvision torch==2.6.0+cu124",
        ),
    ):
        versions = VERSIONS.replace(torchvision_wants=wants, packages={"torch": has, "torchvision": "0.20"})
        found = told(software.torchvision, examined(node("a"), node(versions=versions)))
        assert found == ([] if line is None else [f"warn b: {line}"])


INSTALLED = {"torch": "2.5.1", "beta": "2.0b1", "odd": "unknown"}


@pytest.mark.parametrize(
    ("lines", "lacking"),
    [
        (("torch>=2", "odd>=9", "beta>=1.9"), None),
        (("torch>=3  # newest",), "torch>=3 (2.5.1)"),
        (("torch>=3 --hash=sha256:0",), "torch>=3 (2.5.1)"),
        (("", "  ", "# x", "-r other.txt", "--index-url x", "./x.whl", "gamma"), "gamma (not installed)"),
        (("gamma; python_version < '3.9'", "delta; python_version == '3.9'"), "delta (not installed)"),
        (
            ("gamma; python_full_version < '3.9.7'", "delta; python_full_version == '3.9.7'"),
            "delta (not installed)",
        ),
        (("gamma; sys_platform == 'win32'", "delta; sys_platform == 'linux'"), "delta (not installed)"),
        (
            ("p", "q", "r", "s"),
            "p (not installed), q (not installed), r (not installed), s (not installed)",
        ),
        (
            ("p", "q", "r", "s", "t"),
            "p (not installed), q (not installed), r (not installed), s (not installed) and 1 more",
        ),
    ],
)
def test_requirements(lines: tuple[str, ...], lacking: str | None) -> None:
    python = PYTHON.replace(version="3.9.7")
    known = node(facts={"python": python}, versions=VERSIONS.replace(packages=INSTALLED))
    found = told(software.requirements, examined(node("a"), known, requirements=lines))
    assert found == (
        []
        if lacking is None
        else [
            f"warn b: requirements.txt is not satisfied: {lacking} → "
            "run there: /py -m pip install -r requirements.txt"
        ]
    )
