"""Fold the stacks of all ranks: ranks that do the same are one line.

What a rank does is told by the frame of the user's own code that is innermost, and the library function that it
calls: ``all_reduce at train.py:88``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.core.text.escapes import visible
from orchestrator.protocol.tracing.stacks import Frame, RankStack, Thread

# Paths of code that is not the user's: installed packages, Python's own library, and code without a file.
LIBRARY = re.compile(r"/(site|dist)-packages/|/lib(64)?/python\d|^<|\.so(\.|$)|^$")
# Functions that only call another one.
WRAPPERS = re.compile(r"(wrapper|inner|_fn|decorate_context|wrapped|__call__|_call_impl|_wrapped_call_impl)\Z")
# What a rank does that has no process any more.
ENDED = "has no process: it has ended"
# How the words begin where a rank's stack could not be read.
UNKNOWN = "not known: "


@dataclass(frozen=True)
class Told:
    """What a rank does, in words, and the frames of its main thread, the innermost first."""

    rank: int
    node: str
    doing: str
    frames: tuple[Frame, ...] = ()


@dataclass(frozen=True)
class Group:
    """Ranks that do the same. ``frames`` are those of the first of them."""

    doing: str
    ranks: tuple[Told, ...]

    def __str__(self) -> str:
        """Return one line."""
        numbers = [each.rank for each in self.ranks]
        if len(numbers) == 1:
            return f"rank {numbers[0]} on {self.ranks[0].node}: {self.doing}"
        return f"{len(numbers)} ranks ({spans(numbers)}): {self.doing}"

    @property
    def frames(self) -> tuple[Frame, ...]:
        """The frames of the first of the ranks."""
        return self.ranks[0].frames


def groups(found: Mapping[str, Sequence[RankStack]], expected: Mapping[int, str]) -> list[Group]:
    """Return the groups of ranks that do the same, the largest first. ``found``: by node.

    ``expected``: the node of each rank that the run has; a rank that is not found has ended.
    """
    told = [_told(each, node) for node, stacks in found.items() for each in stacks]
    here = {each.rank for each in told}
    told += [Told(rank, node, ENDED) for rank, node in expected.items() if rank not in here]
    alike: dict[str, list[Told]] = {}
    for each in sorted(told, key=lambda each: each.rank):
        alike.setdefault(each.doing, []).append(each)
    made = [Group(doing, tuple(ranks)) for doing, ranks in alike.items()]
    return sorted(made, key=lambda group: (-len(group.ranks), group.ranks[0].rank))


def as_lines(found: Sequence[Group], full: bool) -> Iterator[str]:
    """Yield a line for each group, safe to show, and with ``full`` the stack of the first rank of each.

    A stack is in the order of Python's tracebacks: the innermost call comes last.
    """
    for group in found:
        yield visible(str(group))
        for frame in reversed(group.frames) if full else ():
            yield f"    {visible(frame.name)}  {visible(frame.file)}:{frame.line}"


def _told(stack: RankStack, node: str) -> Told:
    if stack.error is not None:
        return Told(stack.rank, node, f"{UNKNOWN}{stack.error}")
    main = next((thread for thread in stack.threads if thread.main), None)
    if main is None or not main.frames:
        return Told(stack.rank, node, "runs no Python code")
    return Told(stack.rank, node, doing(main), main.frames)


def doing(thread: Thread) -> str:
    """Return what a thread does: ``function at file:line``, with the innermost line of the user's own code."""
    own = next((at for at, frame in enumerate(thread.frames) if not LIBRARY.search(frame.file)), None)
    if own is None:
        return _place(thread.frames[0], thread.frames[0].name)
    called = [frame.name for frame in reversed(thread.frames[:own])]
    name = next((each for each in called if not WRAPPERS.search(each)), called[0] if called else None)
    return _place(thread.frames[own], name or thread.frames[own].name)


def _place(frame: Frame, name: str) -> str:
    return f"{name} at {frame.file.rpartition('/')[2]}:{frame.line}"


def spans(numbers: Sequence[int]) -> str:
    """Return numbers in ascending order with ranges folded: ``0-2,5``."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in found)
