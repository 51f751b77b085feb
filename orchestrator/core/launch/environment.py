"""An environment that orch builds on the nodes: what it shall hold, and where it is found."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Lines that mean a place on the machine that reads them.


@dataclass(frozen=True)
class Environment:
    """Packages, as the lines of a requirements file, for an interpreter of the node (None: its ``python3``).

    ``source`` is the file that the user named.
    """

    source: str
    requirements: str
    python: str | None

    @property
    def key(self) -> str:
        """What it is asked for by, on every node: 32 hex digits."""
        return hashlib.sha256(json.dumps([self.requirements, self.python]).encode("ascii")).hexdigest()[:32]

    def folder(self, workdir: str) -> str:
        """Where it is on a node; the node's id of it, with interpreter and platform, is behind this link."""
        return f"{workdir}/.orch/envs/by-request/{self.key}"

    def interpreter(self, workdir: str) -> str:
        """Its interpreter."""
        return f"{self.folder(workdir)}/bin/python"


def flattened(path: str, read: Callable[[str], str]) -> str:
    """A requirements file with those that it includes in their places, without comments.

    ``read`` gives the text of a file, by its path. Raises UsageError for what only this machine has.
    """
    found: list[str] = []
    logical = read(path).replace("\\\n", " ")
    for number, line in enumerate(logical.splitlines(), start=1):
        text = line.strip() if line.lstrip().startswith("#") else re.split(r"\s#", line)[0].strip()
        if not text or text.startswith("#"):
            continue
        include = re.match(r"(?:-r|--requirement)[\s=]*(.+)", text)
        if include:
            found.append(flattened(posixpath.join(posixpath.dirname(path), include[1]), read))
            continue
        local = text.startswith(
            (".", "/", "file:", "-e", "--editable", "-c", "--constraint", "-f", "--find-links")
        )
        if local or " @ file:" in text:
            raise UsageError(
                f"{path} line {number}: {text!r} is on this machine only",
                remedy="name packages with their versions; the project's own code is synced as it is",
            )
        found.append(" ".join(text.split()))
    return "\n".join(found)


def of_pyproject(path: str, text: str) -> str:
    """The dependencies of a ``pyproject.toml``, a line each; raises UsageError if it has none."""
    try:
        project: dict[str, Any] = tomllib.loads(text).get("project", {})
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    dependencies = project.get("dependencies")
    if not isinstance(dependencies, list) or not all(isinstance(each, str) for each in dependencies):
        raise UsageError(
            f"{path} has no list project.dependencies",
            remedy="add it, or name a requirements.txt in env:",
        )
    return "\n".join(dependencies)


def wheel_platforms(machine: str, libc: str) -> list[str]:
    """The platforms whose wheels run on a node, the best first (PEP 600, PEP 656); ``libc`` as ``glibc 2.36``."""
    name, _, version = libc.partition(" ")
    numbers = [int(word) for word in version.split(".")[:2] if word.isdigit()]
    minor = numbers[1] if len(numbers) == 2 else 17
    if name != "glibc":
        return [f"musllinux_1_2_{machine}", f"musllinux_1_1_{machine}"]
    legacy = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
    found = []
    for each in range(minor, 4, -1):
        found.append(f"manylinux_2_{each}_{machine}")
        if each in legacy:
            found.append(f"{legacy[each]}_{machine}")
    return [*found, f"linux_{machine}"]
