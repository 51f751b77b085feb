"""Choose which of a node's outputs to fetch when not all fit: the newest snapshot, then the newest of the rest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pathspec import GitIgnoreSpec

from orchestrator.core.inventory.hosts import Outputs
from orchestrator.core.text.counted import counted

# Names that PyTorch, Lightning, transformers and DeepSpeed give to snapshots.
SNAPSHOT = re.compile(
    r"[^/]*(?:snapshot|checkpoint|ckpt)[^/]*|[^/]*\.(?:pt|pth|bin|safetensors|distcp)$|global_step\d+|step_\d+",
    re.IGNORECASE,
)

# Names that distinguish the snapshots in a folder of snapshots.
COUNTED = re.compile(r"snapshot|checkpoint|ckpt|(?:step|epoch|iter(?:ation)?)[-_=]?\d|^\d+$", re.IGNORECASE)
REPORTS = (".log", ".txt", ".jsonl", ".png", ".json", ".csv")


@dataclass(frozen=True)
class OfferedFile:
    """A new or changed file on a node. ``size`` is in bytes; ``target`` is set for a link."""

    path: str
    size: int
    mtime_ns: int
    target: str | None = None


@dataclass(frozen=True)
class Choice:
    """The files to fetch; ``left`` names each file that stays on the node and says why.

    ``newest``: the paths of the newest snapshot. ``lacking``: its first entry in ``left``, None if it is fetched.
    """

    chosen: tuple[OfferedFile, ...]
    left: tuple[str, ...]
    newest: frozenset[str]
    lacking: str | None


def choose(offers: Sequence[OfferedFile], outputs: Outputs) -> Choice:
    """Choose what to fetch within ``outputs.max_size``: the newest snapshot, then the newest of the rest.

    A snapshot of several files is fetched whole or not at all.
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
        left += [f"{each.path} ({counted(each.size, 'byte')}{among}: over outputs.max_size)" for each in files]
        if files[0].path in newest:
            lacking = left[0]
    return Choice(tuple(chosen), tuple(left), newest, lacking)


def _changed(files: Sequence[OfferedFile]) -> int:
    return max(each.mtime_ns for each in files)


def _snapshots(offers: Sequence[OfferedFile]) -> list[list[OfferedFile]]:
    """Return the files of each snapshot, sorted by path, with the newest snapshot first."""
    units: dict[str, list[OfferedFile]] = {}
    for offer in sorted(offers, key=lambda each: each.path):
        unit = _unit(offer.path)
        if unit is not None and offer.target is None:
            units.setdefault(unit, []).append(offer)
    # A folder of snapshots is not one itself, nor are other files in it, such as DeepSpeed's "latest".
    folders = {unit[:at] for unit in units for at in range(len(unit)) if unit[at] == "/"}
    found = [units[unit] for unit in units.keys() - folders]
    return sorted(found, key=lambda files: (-_changed(files), files[0].path))


def _unit(path: str) -> str | None:
    """Return the part of a path that is one snapshot, a file or a folder; None if no part is.

    ``checkpoint-500/`` and ``last.ckpt/`` are snapshots. A folder such as ``checkpoints/`` holds snapshots if
    names in it are counted (``checkpoints/epoch=1.ckpt``), and is one snapshot if not (``checkpoint/model.pt``).
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
