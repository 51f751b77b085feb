"""Find the Python interpreters that a user may train with: ``python3``, virtual environments, and conda's."""

from __future__ import annotations

import functools
import glob
import os

from ...protocol.facts import Interpreter
from ..host import bounded
from . import software

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# Where virtual environments and conda environments usually are, in the order in which they are looked at.
PLACES = (
    "~/venvs/*/bin/python",
    "~/.venvs/*/bin/python",
    "~/.virtualenvs/*/bin/python",
    "~/envs/*/bin/python",
    "~/venv/bin/python",
    "~/.venv/bin/python",
    "~/env/bin/python",
    "~/*/.venv/bin/python",
    "~/*/venv/bin/python",
    "~/.pyenv/versions/*/bin/python",
    "/opt/venv/bin/python",
    "/venv/bin/python",
    "/opt/pytorch/bin/python",
)
CONDA = ("~/miniconda3", "~/miniforge3", "~/mambaforge", "~/anaconda3", "~/micromamba", "~/.conda")
CONDA_OF_ALL = ("/opt/conda", "/opt/miniconda3", "/opt/miniforge3", "/opt/anaconda3")
# Where conda records every environment that it makes.
CONDA_LIST = "~/.conda/environments.txt"
# Most interpreters that are started; each takes about a tenth of a second of one core.
MOST = 24
# Longest time that all of them together may take, in seconds.
LIMIT = software.VERSIONS_LIMIT + 1


def with_torch() -> tuple[Interpreter, ...]:
    """Return ``python3``, if it works, and every other interpreter that has torch."""
    paths = list(candidates())[:MOST]
    looks = {path: (LIMIT, functools.partial(software.look, path, False, ())) for path in paths}
    answers, _ = bounded.run_all(looks)
    found = []
    for position, path in enumerate(paths):
        told = answers.get(path)
        if told is not None and told.versions is not None:
            torch = told.versions.packages.get("torch")
            if torch is not None or position == 0:
                found.append(Interpreter(path=path, version=told.versions.version, torch=torch))
    return tuple(found)


def candidates() -> Iterator[str]:
    """Yield the paths of interpreters, ``python3`` first, each once."""
    usual = software.path_of("python3")
    seen = {usual}
    yield usual
    patterns = list(PLACES)
    for base in CONDA + CONDA_OF_ALL:
        patterns += [base + "/bin/python", base + "/envs/*/bin/python"]
    for pattern in patterns + [os.path.join(prefix, "bin", "python") for prefix in recorded_by_conda()]:
        for path in sorted(glob.glob(os.path.expanduser(pattern))):
            if path not in seen and os.access(path, os.X_OK):
                seen.add(path)
                yield path


def recorded_by_conda() -> list[str]:
    """Return the folders of the environments in conda's list; none if there is no list."""
    try:
        with open(os.path.expanduser(CONDA_LIST), encoding="utf-8", errors="replace") as file:
            return [glob.escape(line.strip()) for line in file.read(65536).splitlines() if line.strip()]
    except OSError:
        return []
