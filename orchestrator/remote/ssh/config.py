"""``Include`` of ssh_config(5), which paramiko passes over in silence."""

from __future__ import annotations

import glob
import re
from pathlib import Path

# As OpenSSH has it.
DEEPEST = 16
INCLUDE = re.compile(r"\s*include(?:\s*=\s*|\s+)(.*)", re.IGNORECASE)
BLOCK = re.compile(r"\s*(?:host|match)(?:\s*=\s*|\s+)", re.IGNORECASE)


def with_included(path: Path, base: Path, depth: int = 0) -> list[str]:
    """The lines of a file with those of the files that it includes in their places.

    ``base``: what relative names are relative to. Raises OSError, and ValueError for what orch cannot follow: a
    nesting without end, and blocks that are included within a block.
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
                    what = f"{path}: {line.strip()!r} within a block has blocks of its own"
                    raise ValueError(f"{what}: move it before the first Host")
                lines += inner
        if block is None:
            # What follows is for every host, whatever the included file ended with.
            lines.append("Host *")
    return lines


def _words(text: str) -> list[str]:
    return [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|([^\s"#]+)', text)]
