"""Text from outside for a terminal: what nodes, files and ranks say must not be taken for commands to it.

Control sequences after ECMA-48 and xterm's ctlseqs: OSC 52 sets the clipboard, OSC 0, 1 and 2 the titles.
"""

from __future__ import annotations

import re

# Controls but tab and newline, C1 controls, lone surrogates, and what turns the direction of writing.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# Clipboard and titles, in seven and eight bits, ended by BEL, ST, or at the latest by the line; and what tmux and
# screen pass on to the terminal around them.
COMMANDS = re.compile(
    rb"(?:\x1b\]|\xc2\x9d)(?:52|[012lLI])[^\n\x07\x1b\x9c]*(?:\x07|\x1b\\|\xc2\x9c)?"
    rb"|\x1bk[^\n\x1b]*(?:\x1b\\)?|(?:\x1bP|\xc2\x90)tmux;"
)


def visible(text: str) -> str:
    r"""Text with its controls written out, an escape as ``\x1b``."""
    return UNSEEN.sub(lambda match: repr(match.group())[1:-1], text)


def harmless(data: bytes) -> bytes:
    """Output of a program for a terminal: as it is, but for what sets the clipboard or the title."""
    if b"\x1b" not in data and b"\xc2" not in data:
        return data
    return COMMANDS.sub(b"", data)
