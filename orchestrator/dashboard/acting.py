"""What the page may start: ``orch stop``, ``orch stacks`` and ``orch doctor``, as its user would type them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.core.history.record import RunRecord
from orchestrator.errors import UsageError
from orchestrator.local.history.runs import read_record

# Longest time for a command, in seconds: a stop waits for its ranks to save.
LIMIT = 300.0


def stop(folder: Path) -> dict[str, Any]:
    """Stop a run, and return what orch said."""
    return _typed(["stop", folder.name], _record(folder))


def stacks(folder: Path) -> dict[str, Any]:
    """Return the stacks of a run's ranks, as orch tells them."""
    return _typed(["stacks", folder.name, "--full"], _record(folder))


def doctor(folder: Path, page: Path) -> dict[str, Any]:
    """Examine the hosts of a run, and write the report to ``page``."""
    return _typed(["doctor", "--html", str(page)], _record(folder))


def _record(folder: Path) -> RunRecord:
    record = read_record(folder)
    if record is None:
        raise UsageError(
            f"the hosts of run {folder.name} were not recorded", remedy="type the command in a terminal"
        )
    return record


def _typed(words: Sequence[str], record: RunRecord) -> dict[str, Any]:
    place = record.place
    argv = [sys.executable, "-m", "orchestrator", *words, "--hosts", place.hosts]
    try:
        done = subprocess.run(
            argv, cwd=place.folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT
        )
    except OSError as error:
        raise UsageError(f"cannot start orch in {place.folder}: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise UsageError(f"orch {words[0]} did not end within {LIMIT:.0f} s") from None
    return {"code": done.returncode, "said": done.stdout, "errors": done.stderr}
