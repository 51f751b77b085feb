"""Use of pip and uv on the control machine: reads lock files and downloads wheels for nodes without internet."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from orchestrator.core.launch.environment import Environment, flattened, of_pyproject, wheel_platforms
from orchestrator.errors import SyncError, UsageError

LAST_WORDS = 12
# Suffixes of the files that list packages.
KINDS = (".txt", ".in", ".toml")


def read_environment(file: Path, python: str | None) -> Environment:
    """Return the environment described by a requirements.txt, pyproject.toml or uv.lock. Raises UsageError."""
    if file.name == "uv.lock":
        return Environment(file.name, flattened(str(file), lambda _: exported(file)), python)
    text = _text(file)
    if file.suffix == ".toml":
        return Environment(file.name, of_pyproject(str(file), text), python)
    return Environment(file.name, flattened(str(file), lambda path: _text(Path(path))), python)


def exported(lock: Path) -> str:
    """Return a uv.lock as a requirements file with hashes. Raises UsageError if uv is missing or fails."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is None:
        raise UsageError(f"reading {lock} needs uv, which is not installed", remedy="python -m pip install uv")
    words = ["export", "--frozen", "--no-emit-project", "--no-header", "--format", "requirements-txt"]
    done = subprocess.run([uv, *words], cwd=lock.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UsageError(f"uv cannot read {lock}: {_last_words(done.stderr)}", remedy="create it again: uv lock")
    return done.stdout


def fetch(environment: Environment, nodes: tuple[str, str, str], cache: Path) -> Path:
    """Return a folder with the wheels of an environment, and of pip, for nodes of one kind; download them once.

    ``nodes``: their Python version, as ``3.11.2``, machine and C library. Raises SyncError with pip's last lines.
    """
    version, machine, libc = nodes
    kind = json.dumps([environment.requirements, version, machine, libc]).encode("utf-8")
    folder = cache / "wheels" / hashlib.sha256(kind).hexdigest()[:24]
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    short = ".".join(version.split(".")[:2])
    abi = "cp" + short.replace(".", "")
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        listing = Path(made, "requirements.txt")
        listing.write_text(environment.requirements + "\n")
        wheels = Path(made, "wheels")
        argv = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "-q"]
        argv += ["--only-binary=:all:", "--implementation=cp", f"--python-version={short}", "-d", str(wheels)]
        argv += [f"--abi={each}" for each in (abi, "abi3", "none")]
        argv += [f"--platform={each}" for each in wheel_platforms(machine, libc)]
        for more in (["-r", str(listing)], ["pip"]):
            done = subprocess.run([*argv, *more], capture_output=True, text=True, check=False)
            if done.returncode:
                raise SyncError(
                    f"the wheels of {environment.source} for Python {short} on {machine} cannot be fetched here: "
                    + _last_words(done.stderr),
                    remedy="leave out packages that have no such wheel, or name a ready environment in python:",
                )
        wheels.rename(folder)
    return folder


def _text(file: Path) -> str:
    """Return the text of a file that will be sent to the nodes; a link counts as the file that it leads to.

    The hosts file may come from a stranger's repository and name a private key, so other files are refused.
    """
    if file.resolve().suffix not in KINDS:
        raise UsageError(
            f"env: {file}: expected a requirements file ({', '.join(KINDS[:2])}), a pyproject.toml or a uv.lock",
            remedy="rename it if it is one; its lines are sent to every host",
        )
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UsageError(f"env: {file}: {reason}") from None


def _last_words(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip() and not line.startswith("WARNING")]
    return "\n".join(lines[-LAST_WORDS:]) or "it printed nothing"
