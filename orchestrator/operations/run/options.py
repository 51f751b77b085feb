"""The options of ``orch run`` and ``orch plan``."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.history.record import Code
from orchestrator.core.launch.plan import RunSpec
from orchestrator.core.run.policy import REPORT
from orchestrator.operations.run.source import Source

# As long as NCCL lets a collective take.
HANG_TIMEOUT = 600.0


@dataclass(frozen=True)
class RunOptions:
    """The options of ``orch run`` besides the target. Times are in seconds.

    ``on_disconnect``: how long a node goes on without the control machine before it ends the run; None: forever.
    ``limit``: how long the run may take before it is stopped. ``grace``: how long stopped ranks may take to end.
    ``data``: whether to bring the nodes the data that inventory and script name. ``agree`` is asked before data
    are sent that the user did not name; None if no user can be asked. ``then``: a shell line to run here once
    the run has ended and its outputs have arrived. ``notify``: the places that are told of the run. ``name``: the
    user's name for the run. ``hang_timeout``: how long ranks may make no progress before orch looks at them; None:
    for ever. ``on_hang``: what follows then. ``again``: the code of the run that this one repeats.
    """

    spec: RunSpec
    source: Source
    runs_dir: Path
    resume: str | None = None
    check: bool = True
    sync: bool = True
    detach: bool = False
    max_restarts: int = 0
    node_timeout: float = 30.0
    on_disconnect: float | None = None
    collect_every: float | None = None
    limit: float | None = None
    grace: float | None = None
    data: bool = True
    agree: Callable[[str], bool] | None = None
    then: str | None = None
    notify: tuple[str, ...] = ()
    hang_timeout: float | None = HANG_TIMEOUT
    on_hang: str = REPORT
    name: str | None = None
    again: Code | None = None


def new_run_id() -> str:
    """Return a new id such as ``20261121-042040-7f3a``. Ids sort by time, and differ within the same second."""
    return time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)
