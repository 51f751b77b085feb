"""Metrics of a script that has none: ``from orch_metrics import log, step``.

    for batch in loader:
        loss = train(batch)
        step()
        log(loss=loss)

Rank 0 appends a line to ``metrics.jsonl`` in ``$ORCH_OUTPUT_DIR``, which ``orch runs plot`` reads. Other ranks
write nothing, nor does a script that orch did not start. A failure to write is said on stderr, and ends no script.
"""

from __future__ import annotations

import json
import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import IO, SupportsFloat

__all__ = ["log", "step"]

NAME = "metrics.jsonl"


class _Log:
    """The state of one process: how many steps are over, and how many were at the last line, and when."""

    def __init__(self) -> None:
        folder = os.environ.get("ORCH_OUTPUT_DIR", "")
        self.path = os.path.join(folder, NAME) if folder and os.environ.get("RANK", "0") == "0" else None
        self.file: IO[str] | None = None
        self.steps = 0
        self.told_steps = 0
        self.told_at = time.monotonic()

    def write(self, line: str) -> None:
        if self.path is None:
            return
        try:
            if self.file is None:
                os.makedirs(os.path.dirname(self.path), exist_ok=True)
                self.file = open(self.path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115
            self.file.write(line + "\n")
        except OSError as error:
            print("orch_metrics: cannot write %s: %s" % (self.path, error.strerror), file=sys.stderr, flush=True)
            self.path = None


_log = _Log()


def step(number: int | None = None) -> int:
    """Say that a step is over, and return how many are. ``number``: that many, such as after a snapshot."""
    if number is not None:
        _log.told_steps += number - _log.steps - 1
    _log.steps = _log.steps + 1 if number is None else number
    return _log.steps


def log(
    values: Mapping[str, SupportsFloat] | None = None, *, step: int | None = None, **named: SupportsFloat
) -> None:
    """Write metrics, given by name or as a mapping, at ``step``, or at the steps that ``step()`` has counted.

    Values are numbers, or tensors with one number. Where ``step()`` is called, each line also has
    ``step_seconds``: how long steps have taken since the last line, on average.
    """
    if _log.path is None:
        return
    line = {"time": time.time()}
    if step is None and _log.steps:
        step = _log.steps
    if step is not None:
        line["step"] = step
    for name, value in {**(values or {}), **named}.items():
        line[name] = float(value)
    now = time.monotonic()
    if _log.steps > _log.told_steps:
        line["step_seconds"] = (now - _log.told_at) / (_log.steps - _log.told_steps)
    _log.told_steps, _log.told_at = _log.steps, now
    _log.write(json.dumps(line))
