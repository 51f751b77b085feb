"""Whom ranks wait for, from the stacks of all of them: what a hang is told by."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from orchestrator.core.text.duration import duration
from orchestrator.core.tracing.stacks import ENDED, UNKNOWN, Group, Told, spans

# Functions that wait for other ranks, if they are called in torch.distributed.
DISTRIBUTED = "/torch/distributed/"
# How many groups of ranks a sentence tells of.
MOST = 4
READ = "orch stacks --full shows where each rank is"


@dataclass(frozen=True)
class Wait:
    """Who holds a run up. ``rank`` and ``node``: of the rank that the others wait for, if one can be told.

    ``what``: a sentence. ``remedy``: what to do about it.
    """

    what: str
    remedy: str
    rank: int | None = None
    node: str | None = None


def waits(groups: Sequence[Group], still: Collection[int], seconds: float) -> Wait:
    """Return who holds a run up whose ranks ``still`` have made no progress for ``seconds``."""
    busy = [group for group in groups if any(each.rank not in still for each in group.ranks)]
    moving = sorted(each.rank for group in busy for each in group.ranks if each.rank not in still)
    shown = [*groups[: MOST - 1], groups[-1]] if len(groups) > MOST else list(groups)
    told = "; ".join(str(group) for group in shown)
    more = f"; and {len(groups) - len(shown)} more" if len(groups) > len(shown) else ""
    began = f"no progress for {duration(seconds)}"
    if busy and len(moving) < sum(len(group.ranks) for group in groups):
        ended = all(group.doing == ENDED for group in busy)
        if not ended:
            began = f"{ranks(sorted(still))} made no progress for {duration(seconds)}, {ranks(moving)} did"
    guilty = suspects(groups, moving)
    if not guilty:
        return Wait(f"{began}: {told}{more}", _remedy(groups, None))
    first = guilty[0]
    others = sum(len(group.ranks) for group in groups) - len(guilty)
    named = f"rank {first.rank} on {first.node}" if len(guilty) == 1 else ranks([each.rank for each in guilty])
    wait = f" → {_wait(others)} for {named}" if others else ""
    return Wait(f"{began}: {told}{more}{wait}", _remedy(groups, first), first.rank, first.node)


def suspects(groups: Sequence[Group], moving: Collection[int] = ()) -> list[Told]:
    """Return the ranks that the others wait for: those that have ended, else those that are in no collective."""
    groups = [group for group in groups if not group.doing.startswith(UNKNOWN)]
    gone = [group for group in groups if group.doing == ENDED]
    if gone and len(gone) < len(groups):
        return list(gone[0].ranks)
    outside = [group for group in groups if not collective(group)]
    if outside and len(outside) < len(groups):
        active = [group for group in outside if any(each.rank in moving for each in group.ranks)]
        return list((active or outside)[-1].ranks)
    smallest = groups[-1] if groups else None
    # Where all wait in collectives, or none does, the odd ones out are suspected.
    if smallest is not None and len(groups) > 1 and len(smallest.ranks) < len(groups[0].ranks):
        return list(smallest.ranks)
    return []


def collective(group: Group) -> bool:
    """Return whether ranks wait for others: they are in torch.distributed, or in the backward pass of DDP."""
    own = next((frame for frame in group.frames if DISTRIBUTED in frame.file), None)
    return own is not None or any(frame.name == "_engine_run_backward" for frame in group.frames)


def ranks(numbers: Sequence[int]) -> str:
    """Return ranks in words: ``rank 3``, or ``ranks 0-2,5``."""
    return f"rank {numbers[0]}" if len(numbers) == 1 else f"ranks {spans(numbers)}"


def _wait(others: int) -> str:
    return "the other waits" if others == 1 else "the others wait"


def _remedy(groups: Sequence[Group], guilty: Told | None) -> str:
    if guilty is not None and guilty.doing == ENDED:
        return "all ranks must make the same number of steps: give them equally many batches"
    waiting = [group for group in groups if collective(group)]
    if len(waiting) > 1 and len(waiting) == len(groups):
        return "the ranks are in different collectives: look for a branch that only some of them take"
    if guilty is not None:
        return f"look at what rank {guilty.rank} does there; {READ}"
    if len(groups) == 1 and waiting:
        return "all are in the same collective: see orch doctor for the network between the hosts"
    return READ
