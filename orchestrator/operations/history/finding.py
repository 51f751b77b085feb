"""Find the run that a word means: an id or its beginning, a name, ``@last``, ``@last-failed``, ``@last-ok``."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from orchestrator.core.history.listed import RecordedRun
from orchestrator.errors import UsageError
from orchestrator.local.history.runs import RUN_ID, recorded_runs, run_ids

# Words for the newest run, and the state that it has.
NEWEST = {"@last": None, "@last-failed": "failed", "@last-ok": "ok"}
LIST = "list them: orch runs"


def find_id(base: Path, word: str) -> str:
    """Return the id of the run that ``word`` means, which must be recorded in ``base``. Raises UsageError."""
    found = known_id(base, word)
    if (base / found).is_dir():
        return found
    if not base.is_dir():
        what = f"no run is recorded in {base}"
        raise UsageError(what, remedy="go to the folder that the run was started in, or pass --runs-dir")
    names = [name for run in recorded_runs(base) for name in (run.run_id, run.name) if name]
    near = difflib.get_close_matches(word, names, 1)
    raise UsageError(f"no run {word!r} in {base}", remedy=f"did you mean {near[0]}?" if near else LIST)


def known_id(base: Path, word: str) -> str:
    """Return the id of the run that ``word`` means here; the word itself if this machine has recorded none.

    A name means the newest run of that name. Raises UsageError for ``@`` words that no run fits, and for the
    beginning of several ids.
    """
    if word.startswith("@"):
        return _newest(base, word)
    ids = run_ids(base)
    if word in ids or RUN_ID.fullmatch(word):
        return word
    named = [run.run_id for run in recorded_runs(base) if run.name == word]
    if named:
        return named[-1]
    begun = [run_id for run_id in ids if word and run_id.startswith(word)]
    if len(begun) > 1:
        raise UsageError(f"{word}: {len(begun)} runs begin so: {_some(begun)}", remedy="give more of the id")
    return begun[0] if begun else word


def _newest(base: Path, word: str) -> str:
    if word not in NEWEST:
        raise UsageError(f"{word}: expected one of {', '.join(NEWEST)}, or the id or name of a run")
    state = NEWEST[word]
    runs: Sequence[RecordedRun] = recorded_runs(base)
    found = [run.run_id for run in runs if state in (None, run.state)]
    if not found:
        what = f"no run in {base} " + ("is recorded" if state is None else f"has the state {state}")
        raise UsageError(f"{word}: {what}", remedy=LIST)
    return found[-1]


def _some(ids: Sequence[str]) -> str:
    shown = ", ".join(ids[-3:])
    return f"..., {shown}" if len(ids) > 3 else shown
