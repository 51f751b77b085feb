"""The Python environment that orch builds on the nodes: its packages and its location."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class Environment:
    """Packages, as the lines of a requirements file, and the node's interpreter to build upon.

    ``python`` None stands for the node's ``python3``; ``source`` is the file that the user named.
    """

    source: str
    requirements: str
    python: str | None

    @property
    def key(self) -> str:
        """Lookup key, the same on every node: 32 hex digits."""
        return hashlib.sha256(json.dumps([self.requirements, self.python]).encode("ascii")).hexdigest()[:32]

    def folder(self, workdir: str) -> str:
        """Return the path on a node: a link to the folder whose name also covers interpreter and platform."""
        return f"{workdir}/.orch/envs/by-request/{self.key}"

    def interpreter(self, workdir: str) -> str:
        """Return the path of the environment's interpreter."""
        return f"{self.folder(workdir)}/bin/python"


def flattened(path: str, read: Callable[[str], str], including: tuple[str, ...] = ()) -> str:
    """Return a requirements file with included files inlined and comments removed.

    ``read`` returns the text of the file at a path; ``including`` are the files that include this one. Raises
    UsageError for a line that refers to this machine, and for files that include each other.
    """
    name = posixpath.normpath(path)
    if name in including:
        raise UsageError(f"{name} includes itself", remedy="remove the -r line that leads back to it")
    found: list[str] = []
    # As for pip, a comment does not continue on the next line.
    logical = re.sub(r"(?m)^(?!\s*#)(.*)\\\n", r"\1 ", read(path))
    for number, line in enumerate(logical.splitlines(), start=1):
        text = line.strip() if line.lstrip().startswith("#") else re.split(r"\s#", line)[0].strip()
        if not text or text.startswith("#"):
            continue
        include = re.match(r"(?:-r|--requirement)[\s=]*(.+)", text)
        if include:
            included = posixpath.join(posixpath.dirname(path), include[1])
            found.append(flattened(included, read, (*including, name)))
            continue
        local = text.startswith(
            (".", "/", "file:", "-e", "--editable", "-c", "--constraint", "-f", "--find-links")
        )
        if local or re.search(r"@\s*file:", text):
            raise UsageError(
                f"{path} line {number}: {text!r} is on this machine only",
                remedy="name packages with their versions instead; orch syncs the project's own code itself",
            )
        found.append(" ".join(text.split()))
    return "\n".join(found)


def of_pyproject(path: str, text: str) -> str:
    """Return the dependencies of a ``pyproject.toml``, one per line; raises UsageError if it lists none."""
    try:
        project: object = tomllib.loads(text).get("project")
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not TOML: {error}") from None
    dependencies = project.get("dependencies") if isinstance(project, dict) else None
    if not isinstance(dependencies, list) or not all(isinstance(each, str) for each in dependencies):
        raise UsageError(
            f"{path} has no project.dependencies list",
            remedy="add it, or name a requirements.txt in env:",
        )
    return "\n".join(dependencies)


def wheel_platforms(machine: str, libc: str) -> list[str]:
    """Return the platforms whose wheels run on a node, best first (PEP 600, PEP 656); ``libc``: ``glibc 2.36``."""
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
