"""What the user of ``orch keys`` asked for, and how the user is asked in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from orchestrator.errors import Interrupted
from orchestrator.ui.display import QUITS


@dataclass(frozen=True)
class Asking:
    """Questions to the user.

    ``agree``: to a change; ``--yes`` answers it. ``accept``: to new host keys; only ``--accept-new-host-keys``
    answers it; None if nobody can be asked. ``password``: of the servers that the question names; None if there is
    none to try. Raises UsageError if a password is needed and nobody can be asked.
    """

    agree: Callable[[str], bool]
    accept: Callable[[str], bool] | None
    password: Callable[[str], str | None]


@dataclass(frozen=True)
class KeysOptions:
    """The options of ``orch keys``. ``identity_file``: the key to install; None for the one that orch offers."""

    asking: Asking
    identity_file: str | None = None
    between: bool = False
    undo: bool = False
    dry_run: bool = False


@contextmanager
def nothing_changed(where: str = "on the hosts") -> Iterator[None]:
    """Tell a user who leaves during the body, with Ctrl-C or at the end of stdin, that nothing was changed yet."""
    try:
        yield
    except QUITS:
        raise Interrupted(f"interrupted: nothing was changed {where}") from None
