"""Bytes of a rank's output in any pieces -> whole, prefixed lines.

Works on blocks, not on lines: a rank may print half a million lines a second.
"""

from __future__ import annotations

# A line longer than this is cut, so that output without newlines cannot fill the memory.
LONGEST_LINE = 1024 * 1024


class LineAssembler:
    """One stream of one rank. Bytes that are not UTF-8 pass through unchanged.

    A carriage return within a line is a progress bar that redraws itself: of each such line what a terminal
    would show at its end is kept, and ``progress()`` tells what it shows by now.
    """

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self._partial = b""

    def feed(self, data: bytes) -> bytes:
        """The lines that ``data`` completes, each with the prefix and a newline."""
        end = data.rfind(b"\n") + 1
        if not end:
            self._partial += data
            if len(self._partial) < LONGEST_LINE:
                return b""
            if b"\r" in self._partial:
                self._partial = _shown(self._partial)
                if len(self._partial) < LONGEST_LINE:
                    return b""
            return self.flush()
        block = self._partial + data[: end - 1]
        self._partial = data[end:]
        if b"\r" in block:
            block = b"\n".join(_shown(line) for line in block.split(b"\n"))
        return self.prefix + block.replace(b"\n", b"\n" + self.prefix) + b"\n"

    def progress(self) -> bytes | None:
        """What a line that redraws itself shows now, with the prefix; None if the line is an ordinary one."""
        if b"\r" not in self._partial:
            return None
        shown = _shown(self._partial)
        return self.prefix + shown if shown else None

    def flush(self) -> bytes:
        """The last line, if it lacks its newline."""
        if not self._partial:
            return b""
        line = self.prefix + _shown(self._partial) + b"\n"
        self._partial = b""
        return line


def _shown(line: bytes) -> bytes:
    """What a terminal shows of a line: the text after its last carriage return that has any."""
    for part in reversed(line.split(b"\r")):
        if part:
            return part
    return b""
