"""Find the known word that a misspelt one was meant to be."""

from __future__ import annotations

from collections.abc import Iterable

# The edits that a word may be away from a known one, by the most letters of words that may have them.
ALLOWED = ((1, 0), (5, 1), (9, 2))
MOST = 3
# The shortest beginning of a word that stands for the word.
BEGINNING = 3


def edits(one: str, other: str) -> int:
    """Return the smallest number of letters to insert, delete, replace or swap with the next to get ``other``.

    This is the optimal string alignment distance.
    """
    before: list[int] = []
    above = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        row = [i]
        for j, wanted in enumerate(other, start=1):
            cost = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, above = above, row
    return above[-1]


def nearest(word: str, known: Iterable[str], *, beginnings: bool = True) -> str | None:
    """Return the word of ``known`` that ``word`` misspells; None if none is close enough.

    Case, underscores for dashes and leading dashes do not count. Of equally close words, one with the same first
    letter wins, then the likeliest slip, then the first. ``beginnings``: the beginning of a single known word
    stands for it, too.
    """
    bare = _bare(word)
    most = next((allowed for letters, allowed in ALLOWED if len(bare) <= letters), MOST)
    words = {each: _bare(each) for each in known}
    near = [
        (distance, meant[:1] != bare[:1], _slip(bare, meant), place, each)
        for place, (each, meant) in enumerate(words.items())
        # A distance as long as the word would make anything of it.
        if abs(len(meant) - len(bare)) <= most and (distance := edits(bare, meant)) <= min(most, len(meant) - 1)
    ]
    if near:
        return min(near)[-1]
    begun = [each for each, meant in words.items() if meant.startswith(bare)] if len(bare) >= BEGINNING else []
    return begun[0] if beginnings and len(begun) == 1 else None


def _slip(word: str, meant: str) -> int:
    """Return how unlikely a slip is: letters swapped, then one doubled or left out, then another one typed."""
    return 0 if sorted(word) == sorted(meant) else 1 if len(word) != len(meant) else 2


def did_you_mean(meant: str) -> str:
    """Return the one form that suggestions have. ``meant`` stands as the user would type it."""
    return f"did you mean {meant}?"


def _bare(word: str) -> str:
    return word.lstrip("-").replace("_", "-").lower()
