"""What ``orch run`` and ``orch plan`` are asked for."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from orchestrator.core.launch.plan import RunSpec
from orchestrator.operations.run.source import Source


@dataclass(frozen=True)
class RunOptions:
    """What ``orch run`` was asked for, beside the target. Times are in seconds.

    ``on_disconnect``: after how long without a control machine a node ends the run by itself; None for never.
    ``limit``: how long the run may take before it is stopped; ``grace``: how long its ranks may take to end then.
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


def new_run_id() -> str:
    """``20261121-042040-7f3a``: sorts by time, and two started in one second differ."""
    return time.strftime("%Y%m%d-%H%M%S-") + secrets.token_hex(2)
