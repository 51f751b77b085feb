"""How two runs differ: arguments, options, code, environment, metrics."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.core.history.listed import RecordedRun
from orchestrator.core.history.record import RunRecord, named_options
from orchestrator.core.transfer.local_tree import Entry, difference

# Values of a spec that are compared under another heading, or follow from the machine.
ELSEWHERE = ("args", "env", "local", "workload")
# Longest file that is compared line by line, in bytes.
LONGEST = 2**20
ReadFile = Callable[[Entry], bytes | None]


@dataclass(frozen=True)
class Change:
    """A value that differs; None where a run has none."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True)
class FileChange:
    """A file that differs. ``kind``: ``added``, ``removed`` or ``changed``. ``lines``: as diff -u prints them."""

    path: str
    kind: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """The differences by subject. ``code`` is None if a run's code was not kept."""

    arguments: tuple[Change, ...]
    options: tuple[Change, ...]
    environment: tuple[Change, ...]
    metrics: tuple[Change, ...]
    code: tuple[FileChange, ...] | None

    def __bool__(self) -> bool:
        return bool(self.arguments or self.options or self.environment or self.metrics or self.code)


def compared(
    records: tuple[RunRecord, RunRecord],
    runs: tuple[RecordedRun, RecordedRun],
    trees: tuple[Mapping[str, Entry] | None, Mapping[str, Entry] | None],
    read: ReadFile,
) -> Comparison:
    """Return how the second run differs from the first. ``trees``: entries of their code by path."""
    first, second = records
    arguments = [named_options(each.args) for each in records]
    return Comparison(
        arguments=changes(
            {"workload": first.workload, **arguments[0]}, {"workload": second.workload, **arguments[1]}
        ),
        options=changes(_options(first), _options(second)),
        environment=changes(_environment(first), _environment(second)),
        metrics=changes(*({name: f"{value:.6g}" for name, value in run.metrics.items()} for run in runs)),
        code=None if trees[0] is None or trees[1] is None else code_changes(trees[0], trees[1], read),
    )


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Change, ...]:
    """Return the values that differ, in the order of ``before``, then of ``after``."""
    return tuple(
        Change(name, before.get(name), after.get(name))
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    )


def code_changes(
    before: Mapping[str, Entry], after: Mapping[str, Entry], read: ReadFile
) -> tuple[FileChange, ...]:
    """Return the files that differ, sorted by path. ``read`` returns a file's bytes, or None if it has none."""
    # An empty folder, such as that of the runs, is no code.
    files = [[entry for entry in tree.values() if entry.kind != "dir"] for tree in (before, after)]
    found = difference(files[0], files[1])
    made = [FileChange(path, "removed") for path in found.removed]
    made += [FileChange(entry.path, "added") for entry in found.added]
    made += [FileChange(entry.path, "changed", _lines(before[entry.path], entry, read)) for entry in found.changed]
    return tuple(sorted(made, key=lambda each: each.path))


def _lines(before: Entry, after: Entry, read: ReadFile) -> tuple[str, ...]:
    texts = []
    for entry in (before, after):
        if entry.kind != "file" or entry.size > LONGEST or (data := read(entry)) is None or b"\0" in data:
            return ()
        texts.append(data.decode("utf-8", "replace").splitlines())
    first, second = texts
    return tuple(difflib.unified_diff(first, second, before.path, after.path, lineterm=""))


def _options(record: RunRecord) -> dict[str, str]:
    """Return what was asked for besides the arguments, without what is None."""
    spec = {name: value for name, value in record.spec.items() if name not in ELSEWHERE}
    found: dict[str, Any] = {**spec, **record.options, "nodes": ",".join(record.nodes)}
    return {name: str(value) for name, value in found.items() if value is not None}


def _environment(record: RunRecord) -> dict[str, str]:
    found = {**record.spec.get("local", {}), **record.spec.get("env", {})}
    if record.code is not None and record.code.git is not None:
        git = record.code.git
        found["git commit"] = git.commit[:12] + (" with changes" if git.dirty else "")
    if record.python:
        found["python"] = "; ".join(record.python)
    found["orch"] = record.orch
    return found


def count_lines(lines: Sequence[str]) -> tuple[int, int]:
    """Return how many lines a difference adds and removes."""
    added = sum(line.startswith("+") and not line.startswith("+++") for line in lines)
    removed = sum(line.startswith("-") and not line.startswith("---") for line in lines)
    return added, removed
