"""The hosts that can join the next attempt of a run."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def replacements(
    everyone: Sequence[str],
    spares: Sequence[str],
    before: Sequence[str],
    lost: Sequence[str],
    given_up: Collection[str],
) -> list[str]:
    """Return the hosts that may take a lost node's place, in the order to try them.

    The spares come first, then the hosts of ``everyone`` outside the attempt ``before``, then the nodes that
    attempt lost, which may be back. Hosts in ``given_up`` and surviving nodes of ``before`` are left out.
    """
    unused = [name for name in everyone if name not in before]
    order = [*(name for name in spares if name not in before), *unused, *(name for name in before if name in lost)]
    return [name for name in dict.fromkeys(order) if name not in given_up]
