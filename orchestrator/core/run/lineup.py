"""Who takes part in the next attempt of a run."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def candidates(
    everyone: Sequence[str],
    spares: Sequence[str],
    before: Sequence[str],
    lost: Sequence[str],
    given_up: Collection[str],
) -> list[str]:
    """Who may take a lost node's place, in the order in which they are to be tried.

    The spares come first, then hosts of the run that had no part in the attempt ``before``, then those that it
    lost, which may have come back. None of ``given_up``, and no node of ``before`` that is still there.
    """
    unused = [name for name in everyone if name not in before]
    order = [*(name for name in spares if name not in before), *unused, *(name for name in before if name in lost)]
    return [name for name in dict.fromkeys(order) if name not in given_up]
