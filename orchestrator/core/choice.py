"""Which of a node's outputs come back where not all may: the newest snapshot, then the newest of the rest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pathspec import GitIgnoreSpec

from orchestrator.core.inventory import Outputs

# Names that snapshots go by in PyTorch, Lightning, transformers and DeepSpeed.
SNAPSHOT = re.compile(
    r"[^/]*(?:snapshot|checkpoint|ckpt)[^/]*|[^/]*\.(?:pt|pth|bin|safetensors|distcp)$|global_step\d+|step_\d+",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Offer:
    """A new or changed file on a node; ``size`` in bytes. ``target`` is set for a link."""

    path: str
    size: int
    mtime_ns: int
    target: str | None = None


@dataclass(frozen=True)
class Choice:
    """What to fetch, and by name what stays and why. ``lacking``: the newest snapshot, if it stays."""

    chosen: tuple[Offer, ...]
    left: tuple[str, ...]
    lacking: str | None


def choose(offers: Sequence[Offer], outputs: Outputs) -> Choice:
    """What to fetch within ``outputs.max_size``."""
    include, exclude = GitIgnoreSpec.from_lines(outputs.include), GitIgnoreSpec.from_lines(outputs.exclude)
    wanted = [each for each in offers if include.match_file(each.path) and not exclude.match_file(each.path)]
    first = newest_snapshot(wanted)
    chosen: list[Offer] = []
    left: list[str] = []
    lacking = None
    room = outputs.max_bytes
    for offer in sorted(wanted, key=lambda each: (each.path not in first, -each.mtime_ns, each.path)):
        if offer.size <= room:
            chosen.append(offer)
            room -= offer.size
            continue
        left.append(f"{offer.path} ({offer.size} bytes: over outputs.max_size)")
        if offer.path in first:
            lacking = lacking or offer.path
    return Choice(tuple(chosen), tuple(left), lacking)


def newest_snapshot(offers: Sequence[Offer]) -> frozenset[str]:
    """The paths of the newest snapshot: a file, or all files of a folder, whose name says so."""
    units: dict[str, list[Offer]] = {}
    for offer in offers:
        unit = _unit(offer.path)
        if unit is not None and offer.target is None:
            units.setdefault(unit, []).append(offer)
    if not units:
        return frozenset()
    newest = max(units.values(), key=lambda files: max(each.mtime_ns for each in files))
    return frozenset(each.path for each in newest)


def _unit(path: str) -> str | None:
    """The outermost part of a path that is called as snapshots are."""
    parts = path.split("/")
    for position, part in enumerate(parts):
        if SNAPSHOT.fullmatch(part) and not part.endswith((".log", ".txt", ".jsonl", ".png", ".json", ".csv")):
            return "/".join(parts[: position + 1])
    return None
