"""Read ssh_config(5) files, with ``Include``, which paramiko silently ignores."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

import paramiko

from orchestrator.errors import UsageError

# OpenSSH's own limit.
DEEPEST = 16
INCLUDE = re.compile(r"\s*include(?:\s*=\s*|\s+)(.*)", re.IGNORECASE)
BLOCK = re.compile(r"\s*(?:host|match)(?:\s*=\s*|\s+)", re.IGNORECASE)


def config_files(home: Path) -> tuple[Path, Path]:
    """Return the paths of the user's file and of the system's, the one that takes precedence first."""
    return home / ".ssh" / "config", Path("/etc/ssh/ssh_config")


def read_config(paths: Sequence[Path]) -> paramiko.SSHConfig:
    """Return what the files say that exist. Raises UsageError if one cannot be read."""
    found = paramiko.SSHConfig()
    for path in paths:
        if path.is_file():
            try:
                found.parse(with_included(path, path.parent))
            except (OSError, ValueError, paramiko.SSHException) as error:
                raise UsageError(f"{path} cannot be read: {error}", remedy="correct the file") from None
    return found


def with_included(path: Path, base: Path, depth: int = 0) -> list[str]:
    """Return the lines of a file, with each ``Include`` replaced by the lines of the files that it names.

    ``base``: the folder that relative names start from. Raises OSError, and ValueError for what orch does not
    support: nesting deeper than DEEPEST, and blocks that are included within a block.
    """
    if depth > DEEPEST:
        raise ValueError(f"{path}: Include is nested more than {DEEPEST} deep")
    lines: list[str] = []
    block = None
    for line in path.read_text(errors="replace").splitlines():
        if BLOCK.match(line):
            block = line
        included = INCLUDE.match(line)
        if included is None:
            lines.append(line)
            continue
        for name in _words(included.group(1)):
            for each in sorted(glob.glob(str(base / Path(name).expanduser()))):  # noqa: PTH207
                inner = with_included(Path(each), base, depth + 1)
                if block is not None and any(BLOCK.match(one) for one in inner):
                    what = f"{path}: {line.strip()!r} is within a block and includes further blocks"
                    raise ValueError(f"{what}: move it before the first Host")
                lines += inner
        if block is None:
            # The lines that follow apply to every host, even if the included file ended within a block.
            lines.append("Host *")
    return lines


def _words(text: str) -> list[str]:
    return [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|([^\s"#]+)', text)]
