"""``orch workloads copy``: put a bundled workload into a folder, to change it."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

from orchestrator.errors import UsageError
from orchestrator.operations.run.source import bundled_file, companions
from orchestrator.ui.display import Display


def copy(name: str, folder: Path, force: bool, display: Display) -> int:
    """Copy a bundled workload and the files it needs to ``folder``, print how to run it, and return 0.

    Raises UsageError, and writes nothing, if a file there differs and ``force`` is false.
    """
    script = bundled_file(name)
    files = [script, *companions(script)]
    targets = {file: folder / file.relative_to(script.parent) for file in files}
    try:
        changed = [to for file, to in targets.items() if to.exists() and to.read_bytes() != file.read_bytes()]
        if changed and not force:
            named = ", ".join(map(str, changed))
            raise UsageError(f"already there, and different: {named}", remedy="pass --force, or another DIR")
        for file, to in targets.items():
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, to)
    except OSError as error:
        raise UsageError(f"cannot write {error.filename}: {error.strerror}") from None
    for to in targets.values():
        display.write(f"{to}\n")
    copied = shlex.quote(os.fspath(targets[script]))
    display.note(f"to run it: orch run {copied}")
    display.note(f"for its options: orch run {copied} -- --help")
    return 0
