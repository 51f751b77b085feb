"""The user's consent to send files from outside the project, which an inventory names, to other machines."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.core.inventory.hosts import DataSource
from orchestrator.errors import UsageError
from orchestrator.local.datasets import KNOWN
from orchestrator.operations.run.source import project_of

Agree = Callable[[str], bool]


def outside(beside: Path, sources: Sequence[DataSource]) -> list[str]:
    """Return the real paths of the sources that lie outside the project folder of the inventory.

    ``beside`` is the folder of the inventory. Known data sets such as ``mnist`` are left out.
    """
    root = project_of(beside.resolve()).resolve()
    paths = [Path(each.path).resolve() for each in sources if each.path not in KNOWN]
    return [str(path) for path in paths if not path.is_relative_to(root)]


def agreed_to(paths: Sequence[str], hosts_file: Path, agree: Agree | None) -> None:
    """Ask for consent to send the paths, except those agreed to before, and remember the answer yes.

    ``agree`` is None if no user can be asked. Raises UsageError without consent.
    """
    file = _answers(hosts_file)
    try:
        known = set(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError):
        known = set()
    new = [path for path in paths if path not in known]
    if not new:
        return
    named = ", ".join(new)
    if agree is None or not agree(f"{hosts_file.name} asks for {named} to be sent to all its hosts. Send?"):
        raise UsageError(
            f"{hosts_file.name}: data: {named} is outside the project folder, and not sent without consent",
            remedy="pass --yes once, or remove the path from data:",
        )
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.write_text(json.dumps(sorted(known | set(new))))


def _answers(hosts_file: Path) -> Path:
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "orch"
    return state / f"data-{hashlib.sha256(os.fsencode(hosts_file.resolve())).hexdigest()[:24]}.json"
