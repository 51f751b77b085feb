"""Assemble a rank's output, which arrives in arbitrary pieces, into whole lines with a prefix.

The code works on blocks, not on single lines: a rank may print half a million lines a second.
"""

from __future__ import annotations

# Longer lines, in bytes, are cut, so that output without newlines cannot fill the memory.
LONGEST_LINE = 1024 * 1024


class LineAssembler:
    """One stream of one rank. Bytes that are not UTF-8 pass through unchanged.

    A carriage return within a line marks a progress bar that redraws itself. Only the text that a terminal would
    show at the end of such a line is kept; ``progress()`` returns the text shown so far.
    """

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self._partial = b""

    def feed(self, data: bytes) -> bytes:
        """Return the lines that ``data`` completes, each with the prefix and a newline."""
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
        """Return the current text of a line that redraws itself, with the prefix; None for an ordinary line."""
        if b"\r" not in self._partial:
            return None
        shown = _shown(self._partial)
        return self.prefix + shown if shown else None

    def flush(self) -> bytes:
        """Return the unfinished line with the prefix and a newline; empty if there is none."""
        if not self._partial:
            return b""
        line = self.prefix + _shown(self._partial) + b"\n"
        self._partial = b""
        return line


def _shown(line: bytes) -> bytes:
    """Return what a terminal shows of a line: the last part between carriage returns that is not empty."""
    for part in reversed(line.split(b"\r")):
        if part:
            return part
    return b""
