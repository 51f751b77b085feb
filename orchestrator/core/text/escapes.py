"""Keep text from nodes, files and ranks from acting as commands to the user's terminal.

Control sequences follow ECMA-48 and xterm's ctlseqs: OSC 52 sets the clipboard, OSC 0, 1 and 2 set the titles.
"""

from __future__ import annotations

import re

# Controls except tab and newline, C1 controls, lone surrogates, and characters that change the text direction.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# ECMA-48's ST, which does nothing outside a sequence.
TERMINATOR = b"\x1b\\"
# Sequences that set the clipboard or a title, in 7-bit and 8-bit form, ended by BEL, ST or the end of the line;
# screen's title sequence; and the start of the one in which tmux passes sequences on to the terminal.
CLIPBOARD_OR_TITLE = re.compile(
    rb"(?:\x1b\]|\xc2\x9d)(?:52|[012lLI])(?:[^\n\x07\x1b\xc2]|\xc2(?!\x9c))*(?:\x07|\x1b\\|\xc2\x9c)?"
    rb"|\x1bk[^\n\x1b]*(?:\x1b\\)?|(?:\x1bP|\xc2\x90)tmux;"
)


def visible(text: str) -> str:
    r"""Return ``text`` with control characters written out, such as ``\x1b`` for an escape."""
    return UNSEEN.sub(lambda match: repr(match.group())[1:-1], text)


def harmless(data: bytes) -> bytes:
    """Return a program's output without the sequences that set the terminal's clipboard or title."""
    if b"\x1b" not in data and b"\xc2" not in data:
        return data
    cleaned = CLIPBOARD_OR_TITLE.sub(b"", data)
    if CLIPBOARD_OR_TITLE.search(cleaned):
        # The bytes around a sequence were made to join into another one: keep them apart.
        cleaned = CLIPBOARD_OR_TITLE.sub(lambda _: TERMINATOR, data)
    return cleaned
