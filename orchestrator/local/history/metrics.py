"""The metrics of a recorded run, read from its outputs and logs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from orchestrator.core.metrics.series import Gathered, Series
from orchestrator.core.metrics.texts import Printed, add_object
from orchestrator.core.metrics.tfevents import add_events

Reader = Callable[[Gathered, BinaryIO], None]
# A longer line of JSON or of a log is read in parts, which are no metrics.
LONGEST = 1 << 20
OUTPUTS = ("metrics*.jsonl", "events.out.tfevents.*")


def read_metrics(folder: Path, nodes: Sequence[str], rank: int, pattern: str | None) -> list[Series]:
    """Return the series of a run: from ``metrics*.jsonl``, event files of TensorBoard, and what ``rank`` printed.

    A file that several of ``nodes`` wrote is read from the first. Files that are damaged, or still being written,
    give what they hold. Memory is bounded by the numbers found. Raises UsageError if ``pattern`` is no pattern.
    """
    printed = Printed(pattern)
    found: list[Series] = []
    seen: set[str] = set()
    for node in nodes:
        for path, inner in _outputs(folder / node, OUTPUTS[0]):
            if inner not in seen:
                found += _read(Gathered(f"{node}/{inner}"), [path], _objects)
                seen.add(inner)
    for node in nodes:
        folders: dict[str, list[Path]] = {}
        for path, inner in _outputs(folder / node, OUTPUTS[1]):
            folders.setdefault(inner.rpartition("/")[0], []).append(path)
        for inner, paths in folders.items():
            if f"{inner}/" not in seen:
                # Each start of a script has a file of its own; their names hold the time.
                found += _read(
                    Gathered(f"{node}/{inner}".rstrip("/") + " (TensorBoard)"), sorted(paths), add_events
                )
                seen.add(f"{inner}/")
    for stream in ("stdout", "stderr"):
        logs = [path for node in nodes for path in _logs(folder / "logs" / node, f"rank{rank}.{stream}.log")]
        if logs:

            def lines(gathered: Gathered, file: BinaryIO) -> None:
                for line in _lines(file):
                    printed.add_line(gathered, line)

            found += _read(Gathered(f"rank {rank}'s {stream}"), logs, lines)
    return found


def measured_files(folder: Path, nodes: Sequence[str], rank: int) -> list[Path]:
    """Return the files that ``read_metrics`` reads."""
    found = [path for node in nodes for name in OUTPUTS for path, _ in _outputs(folder / node, name)]
    streams = [f"rank{rank}.{stream}.log" for stream in ("stdout", "stderr")]
    return found + [path for node in nodes for name in streams for path in _logs(folder / "logs" / node, name)]


def _outputs(folder: Path, name: str) -> Iterator[tuple[Path, str]]:
    """Yield the files of a name below a node's outputs, and their paths there."""
    for path in sorted(folder.rglob(name)):
        if path.is_file():
            yield path, path.relative_to(folder).as_posix()


def _logs(folder: Path, name: str) -> list[Path]:
    """Return a log of all attempts, in their order."""
    later = sorted(folder.glob(f"attempt*/{name}"), key=lambda path: (len(path.parent.name), path.parent.name))
    return [path for path in (folder / name, *later) if path.is_file()]


def _read(gathered: Gathered, paths: Sequence[Path], reader: Reader) -> list[Series]:
    for path in paths:
        try:
            with path.open("rb") as file:
                reader(gathered, file)
        except OSError:
            continue
    return list(gathered.series.values())


def _objects(gathered: Gathered, file: BinaryIO) -> None:
    for line in _lines(file):
        add_object(gathered, line)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(LONGEST):
        yield line
