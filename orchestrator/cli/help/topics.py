"""Topics: short texts on subjects that several verbs share, one file each in ``texts``.

The first line of a file is the topic's line in the list of topics. ``{exit_codes}`` stands for the table of exit
codes in ``errors.py``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path

from orchestrator.core.text.nearest import did_you_mean, nearest
from orchestrator.errors import EXIT_CODES, UsageError

WIDTH = 78
TEXTS = Path(__file__).parent / "texts"


def topics() -> dict[str, str]:
    """Return the first line of each topic, by name."""
    return {file.stem: file.read_text(encoding="utf-8").partition("\n")[0] for file in sorted(TEXTS.glob("*.txt"))}


def topic(name: str) -> str:
    """Return the text of a topic, which has to exist."""
    text = (TEXTS / f"{name}.txt").read_text(encoding="utf-8")
    return text.replace("{exit_codes}", exit_codes())


def exit_codes() -> str:
    """Return the table of exit codes."""
    lines = (f"  {code:>3}  {meaning}" for code, meaning in EXIT_CODES.items())
    return "\n".join(textwrap.fill(line, WIDTH, subsequent_indent=" " * 7) for line in lines)


def unknown(word: str, known: Iterable[str]) -> UsageError:
    """Return the error for a word that is neither a topic nor a verb."""
    near = nearest(word, known)
    remedy = did_you_mean(f"orch help {near}") if near else "orch help lists the topics and the verbs"
    return UsageError(f"orch help {word}: neither a topic nor a verb", remedy=remedy)
