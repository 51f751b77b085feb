"""Logs of recorded runs for the page: a window of one, a search in all, and all merged as they grow."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

# Bytes of a window of one log, and of what is read of a log at a time where all are merged.
WINDOW, PIECE = 96 * 1024, 16 * 1024
# Lines that are kept of all logs merged, and that the page gets at a time.
MERGED, MOST_LINES = 5000, 500
LONGEST = 2000
# Matches that a search returns, and how long it may take, in seconds.
MATCHES, LIMIT = 200, 5.0


def log_path(folder: Path, name: str) -> Path | None:
    """Return the path of one of a run's logs by its name below ``logs``; None if there is none."""
    path = (folder / "logs" / name).resolve()
    inside = path.is_relative_to((folder / "logs").resolve())
    return path if inside and path.suffix == ".log" and path.is_file() else None


def window(path: Path, end: int | None) -> dict[str, Any]:
    """Return the lines of at most ``WINDOW`` bytes that end at the offset ``end``, or at the end of the log.

    ``begin`` and ``end`` are offsets in bytes, ``size`` is that of the whole log.
    """
    size = path.stat().st_size
    end = size if end is None else max(0, min(end, size))
    begin = max(0, end - WINDOW)
    with path.open("rb") as file:
        file.seek(begin)
        data = file.read(end - begin)
    if begin:
        # The first line is not whole.
        cut = data.find(b"\n") + 1
        begin, data = begin + cut, data[cut:]
    return {"begin": begin, "end": end, "size": size, "lines": _lines(data)}


def search(folder: Path, text: str, only: str) -> dict[str, Any]:
    """Return the lines of a run's logs that hold ``text``, whatever its case; of one log if ``only`` names it.

    ``more``: whether there may be others, because ``MATCHES`` were found or the time was up.
    """
    wanted, found, until = text.lower().encode(), [], time.monotonic() + LIMIT
    for path in sorted((folder / "logs").rglob("*.log")):
        name = path.relative_to(folder / "logs").as_posix()
        if only and name != only:
            continue
        for offset, line in _matching(path, wanted):
            found.append({"log": name, "end": offset, "line": _text(line)})
            if len(found) >= MATCHES or time.monotonic() > until:
                return {"matches": found, "more": True}
        if time.monotonic() > until:
            return {"matches": found, "more": True}
    return {"matches": found, "more": False}


def _matching(path: Path, wanted: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the end of each line that holds ``wanted``, and the line."""
    offset = 0
    try:
        with path.open("rb") as file:
            while line := file.readline(1 << 20):
                offset += len(line)
                if wanted in line.lower():
                    yield offset, line
    except OSError:
        return


@dataclass
class _Growing:
    """A log that is followed: how much of it has been read, and the part of a line at its end."""

    path: Path
    label: str
    offset: int
    part: bytes = b""


class Merged:
    """The newest lines of all logs of a run, numbered in the order in which they were read.

    Of what a log grew by since the last look, the last ``PIECE`` bytes are read: so the memory is bounded, however
    much the ranks print. ``skipped`` counts the bytes that were left out.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "logs"
        self.lines: deque[tuple[int, str, str]] = deque(maxlen=MERGED)
        self.count = 0
        self.skipped = 0
        self._logs: dict[Path, _Growing] = {}
        self._lock = Lock()

    def after(self, number: int) -> dict[str, Any]:
        """Return the lines after number ``number``, at most ``MOST_LINES``, and the number of the last one."""
        with self._lock:
            self._look()
            newer = [each for each in self.lines if each[0] > number][-MOST_LINES:]
            told = [{"log": label, "line": line} for _, label, line in newer]
            return {"lines": told, "last": self.count, "skipped": self.skipped}

    def _look(self) -> None:
        for path in sorted(self.folder.rglob("*.log")):
            if path.name == "torchrun.log":
                continue
            log = self._logs.get(path)
            if log is None:
                label = path.relative_to(self.folder).as_posix().removesuffix(".log")
                log = self._logs[path] = _Growing(path, label, 0)
            self._read(log)

    def _read(self, log: _Growing) -> None:
        try:
            size = log.path.stat().st_size
            if size <= log.offset:
                return
            begin = max(log.offset, size - PIECE)
            with log.path.open("rb") as file:
                file.seek(begin)
                data = file.read(size - begin)
        except OSError:
            return
        if begin > log.offset:
            self.skipped += begin - log.offset
            log.part = b""
            data = data[data.find(b"\n") + 1 :]
        whole, _, log.part = (log.part + data).rpartition(b"\n")
        log.part = log.part[-LONGEST:]
        log.offset = size
        for line in _lines(whole) if whole else []:
            self.count += 1
            self.lines.append((self.count, log.label, line))


def _lines(data: bytes) -> list[str]:
    return [_text(line) for line in data.removesuffix(b"\n").split(b"\n")] if data else []


def _text(line: bytes) -> str:
    """Return a line as it would stand in a terminal: of parts that overwrite each other, the last."""
    return line[:LONGEST].rstrip(b"\r\n").rpartition(b"\r")[2].decode("utf-8", "replace")
