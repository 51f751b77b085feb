"""Which of a node's outputs come back where not all may: the newest snapshot, then the newest of the rest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pathspec import GitIgnoreSpec

from orchestrator.core.inventory.hosts import Outputs

# Names that snapshots go by in PyTorch, Lightning, transformers and DeepSpeed.
SNAPSHOT = re.compile(
    r"[^/]*(?:snapshot|checkpoint|ckpt)[^/]*|[^/]*\.(?:pt|pth|bin|safetensors|distcp)$|global_step\d+|step_\d+",
    re.IGNORECASE,
)

# What tells one snapshot from the next where several lie in a folder of snapshots.
COUNTED = re.compile(r"snapshot|checkpoint|ckpt|(?:step|epoch|iter(?:ation)?)[-_=]?\d|^\d+$", re.IGNORECASE)
REPORTS = (".log", ".txt", ".jsonl", ".png", ".json", ".csv")


@dataclass(frozen=True)
class OfferedFile:
    """A new or changed file on a node; ``size`` in bytes. ``target`` is set for a link."""

    path: str
    size: int
    mtime_ns: int
    target: str | None = None


@dataclass(frozen=True)
class Choice:
    """What to fetch, and by name what stays and why.

    ``newest``: the paths of the newest snapshot; ``lacking``: an entry of ``left``, if it stays.
    """

    chosen: tuple[OfferedFile, ...]
    left: tuple[str, ...]
    newest: frozenset[str]
    lacking: str | None


def choose(offers: Sequence[OfferedFile], outputs: Outputs) -> Choice:
    """What to fetch within ``outputs.max_size``: the newest snapshot, then the newest of the rest.

    A snapshot of several files comes whole or not at all.
    """
    include, exclude = GitIgnoreSpec.from_lines(outputs.include), GitIgnoreSpec.from_lines(outputs.exclude)
    wanted = [each for each in offers if include.match_file(each.path) and not exclude.match_file(each.path)]
    snapshots = _snapshots(wanted)
    newest = frozenset(each.path for each in snapshots[0]) if snapshots else frozenset()
    of_snapshots = {each.path for files in snapshots for each in files}
    rest = [*snapshots[1:], *([each] for each in wanted if each.path not in of_snapshots)]
    chosen: list[OfferedFile] = []
    left: list[str] = []
    lacking = None
    room = outputs.max_bytes
    for files in [*snapshots[:1], *sorted(rest, key=lambda files: (-_changed(files), files[0].path))]:
        size = sum(each.size for each in files)
        if size <= room:
            chosen += files
            room -= size
            continue
        among = "" if len(files) == 1 else f" of {size} in its snapshot"
        left += [f"{each.path} ({each.size} bytes{among}: over outputs.max_size)" for each in files]
        if files[0].path in newest:
            lacking = left[0]
    return Choice(tuple(chosen), tuple(left), newest, lacking)


def _changed(files: Sequence[OfferedFile]) -> int:
    return max(each.mtime_ns for each in files)


def _snapshots(offers: Sequence[OfferedFile]) -> list[list[OfferedFile]]:
    """The files of each snapshot, by path, the newest snapshot first."""
    units: dict[str, list[OfferedFile]] = {}
    for offer in sorted(offers, key=lambda each: each.path):
        unit = _unit(offer.path)
        if unit is not None and offer.target is None:
            units.setdefault(unit, []).append(offer)
    # What lies beside snapshots in their folder, DeepSpeed's "latest" say, is none.
    folders = {unit[:at] for unit in units for at in range(len(unit)) if unit[at] == "/"}
    found = [units[unit] for unit in units.keys() - folders]
    return sorted(found, key=lambda files: (-_changed(files), files[0].path))


def _unit(path: str) -> str | None:
    """The part of a path that is one snapshot, a file or a folder; None where none is.

    ``checkpoint-500/``, ``last.ckpt/`` are one; ``checkpoints/`` is where they lie, or one if nothing in it is
    counted: ``checkpoints/epoch=1.ckpt`` against ``checkpoint/model.pt``.
    """
    within = None
    parts = path.split("/")
    for position, part in enumerate(parts):
        called = SNAPSHOT.fullmatch(part) if within is None else COUNTED.search(part)
        if called is None or part.lower().endswith(REPORTS):
            continue
        within = "/".join(parts[: position + 1])
        if any(letter.isdigit() or letter == "." for letter in part):
            return within
    return within
