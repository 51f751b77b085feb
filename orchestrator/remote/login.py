"""Quoting of commands so that any login shell passes them on unchanged."""

from __future__ import annotations

import re
import shlex
import string
from collections.abc import Sequence

# Even within single quotes, csh expands ! and ends the word at a newline, and fish interprets backslashes.
UNSAFE = re.compile(r"[!\\\n]")
PLAIN = b" ./-_0123456789" + string.ascii_letters.encode()


def command_line(words: Sequence[str]) -> str:
    """Return a command line that sh, bash, dash, zsh, fish, tcsh and csh read alike, as plain text if possible."""
    line = shlex.join(words)
    if not UNSAFE.search(line) and not any(word.startswith("=") for word in words):
        return line
    printed = "".join(chr(byte) if byte in PLAIN else f"\\0{byte:03o}" for byte in f"exec {line}".encode())
    return f'exec sh -c \'eval "$(printf %b "{printed}")"\''
