"""Say what changed in the SSH files of a node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator.core.inventory.hostrange import folded
from orchestrator.core.text.counted import counted
from orchestrator.protocol.keys import BETWEEN_KEY, FileChange, KeysArranged


def told(answer: KeysArranged, *, done: bool) -> tuple[str, ...]:
    """Return what changed on a node, or would change, in one line for each file."""
    lines = []
    if answer.key_made:
        lines.append(f"{'made' if done else 'make'} a key for logins between nodes, ~/.ssh/{BETWEEN_KEY}")
    lines += [f"~/.ssh/{name}: {_of_file(change)}" for name, change in answer.files.items()]
    if answer.key_removed:
        lines.append(f"{'removed' if done else 'remove'} the key for logins between nodes, ~/.ssh/{BETWEEN_KEY}")
    return (*lines, *answer.doubts)


def _of_file(change: FileChange) -> str:
    said = []
    if change.made:
        said.append("new")
    if change.added:
        said.append(f"{_entries(change.added)} added")
    if change.removed:
        said.append(f"{_entries(change.removed)} removed")
    if change.deleted:
        said.append("nothing is left, so the file goes, too")
    elif change.mode is not None:
        said.append(f"mode {change.mode:03o}")
    if change.absent:
        said.append(f"{_entries(change.absent)} changed or removed by others before")
    if change.others:
        said.append("the rest stays, because others changed the file since")
    return ", ".join(said)


def _entries(count: int) -> str:
    return counted(count, "entry")


def grouped(lines: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Return the lines by host names such as ``node[1-3]``, hosts with equal lines together."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, told in lines.items():
        alike.setdefault(tuple(told), []).append(name)
    return {folded(names): told for told, names in alike.items()}
