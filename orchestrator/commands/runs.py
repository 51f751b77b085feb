"""``orch runs``: list, show, compare, label and remove the runs that this machine has recorded."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from orchestrator.core.history.compare import compared
from orchestrator.core.history.listed import RecordedRun, Selection
from orchestrator.core.text.counted import counted
from orchestrator.errors import UsageError
from orchestrator.local.history.code import CodeStore
from orchestrator.local.history.runs import (
    Labels,
    read_labels,
    read_record,
    read_run,
    recorded_runs,
    write_labels,
)
from orchestrator.local.run_folder import read_events
from orchestrator.operations.history.again import recorded
from orchestrator.operations.history.finding import find_id
from orchestrator.operations.history.removing import remove, surplus
from orchestrator.ui.display import Display
from orchestrator.ui.history.listing import show_recorded, size
from orchestrator.ui.history.page import show_comparison, show_run


def listed(base: Path, selection: Selection, most: int | None, display: Display) -> int:
    """List the newest ``most`` of the runs that are selected, or all. Return 0."""
    everything = recorded_runs(base)
    found = [run for run in everything if run in selection]
    shown = found if most is None else found[max(0, len(found) - most) :]
    show_recorded(display, shown, len(found) - len(shown))
    if not found and not display.as_json:
        where = f"{base} has no such run" if everything else f"no run is recorded in {base}"
        display.write(f"{where} (orch ps lists those on the hosts)\n")
    return 0


def show(base: Path, word: str, display: Display) -> int:
    """Show one run in full, and return 0. Raises UsageError."""
    folder = base / find_id(base, word)
    show_run(display, read_run(folder), read_record(folder), read_events(folder, mend=False), folder)
    return 0


def diff(base: Path, words: tuple[str, str], full: bool, display: Display) -> int:
    """Show how the second run differs from the first, and return 0. Raises UsageError."""
    first, second = recorded(base, words[0]), recorded(base, words[1])
    store = CodeStore(base)
    first_tree, second_tree = (
        None if each.code is None else store.entries(each.code.tree) for each in (first, second)
    )
    runs = read_run(base / first.run_id), read_run(base / second.run_id)
    found = compared((first, second), runs, (first_tree, second_tree), store.read)
    show_comparison(display, found, (first.run_id, second.run_id), full)
    return 0


def rm(base: Path, words: Sequence[str], force: bool, display: Display) -> int:
    """Remove runs from this machine, and return 0. Raises UsageError before any is removed."""
    _removed(remove(base, [find_id(base, word) for word in words], force), display)
    return 0


def prune(base: Path, keep: int | None, age: float | None, tagged: bool, dry_run: bool, display: Display) -> int:
    """Remove old runs from this machine, and return 0; with ``dry_run`` list them. ``age`` is in seconds."""
    if keep is None and age is None:
        raise UsageError("say which runs may go", remedy="--keep 20, or --older-than 30d")
    found = surplus(base, keep, None if age is None else time.time() - age, tagged)
    if dry_run:
        show_recorded(display, found, 0)
        display.note(f"{counted(len(found), 'run')} ({size(sum(run.size for run in found))}) would be removed")
        return 0
    _removed(remove(base, [run.run_id for run in found], force=False), display)
    return 0


def _removed(runs: Sequence[RecordedRun], display: Display) -> None:
    freed = size(sum(run.size for run in runs))
    display.write(f"removed {counted(len(runs), 'run')}, {freed}\n" if runs else "nothing to remove\n")


def tag(base: Path, word: str, tags: Sequence[str], taken: bool, display: Display) -> int:
    """Add tags to a run, or with ``taken`` take them from it; without any, print them. Return 0."""
    folder = base / find_id(base, word)
    before = read_labels(folder)
    if taken and (unknown := [each for each in tags if each not in before.tags]):
        raise UsageError(f"run {folder.name} has no tag {unknown[0]}", remedy=f"it has: {', '.join(before.tags)}")
    after = [each for each in before.tags if each not in tags] if taken else [*before.tags, *tags]
    after = list(dict.fromkeys(after))
    if tags:
        write_labels(folder, Labels(tuple(after), before.notes))
    display.write("".join(f"{each}\n" for each in after))
    return 0


def note(base: Path, word: str, text: str | None, display: Display) -> int:
    """Add a note to a run; without one, print its notes. Return 0. Raises UsageError."""
    folder = base / find_id(base, word)
    before = read_labels(folder)
    if text is None:
        display.write("".join(f"{each}\n" for each in before.notes))
    else:
        write_labels(folder, Labels(before.tags, (*before.notes, text)))
    return 0
