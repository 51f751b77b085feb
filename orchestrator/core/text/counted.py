"""Counted nouns: ``1 file``, ``2 files``."""

from __future__ import annotations

import re

_SIBILANT = re.compile(r"(s|x|z|ch|sh)\Z")
_CONSONANT_Y = re.compile(r"(?<=[^aeiou])y\Z")


def counted(count: int, noun: str) -> str:
    """Return the count with its noun, in the plural unless there is one: ``1 entry``, ``2,000 entries``.

    Only the last word of ``noun`` is inflected, as in ``leftover process``.
    """
    return f"{count:,} {noun if count == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """Return the plural of a regular English noun."""
    if _CONSONANT_Y.search(noun):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if _SIBILANT.search(noun) else f"{noun}s"
