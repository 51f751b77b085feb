"""What a node's login shell is sent, so that any of them hands it on as it is."""

from __future__ import annotations

import re
import shlex
import string
from collections.abc import Sequence

# Within single quotes csh takes these for its own, or ends the line; fish takes backslashes.
UNSAFE = re.compile(r"[!\\\n]")
PLAIN = b" ./-_0123456789" + string.ascii_letters.encode()


def command_line(words: Sequence[str]) -> str:
    """Words as a command line that sh, bash, dash, zsh, fish, tcsh and csh read alike; plain where they can."""
    line = shlex.join(words)
    if not UNSAFE.search(line) and not any(word.startswith("=") for word in words):
        return line
    printed = "".join(chr(byte) if byte in PLAIN else f"\\0{byte:03o}" for byte in f"exec {line}".encode())
    return f'exec sh -c \'eval "$(printf %b "{printed}")"\''
