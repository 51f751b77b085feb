"""A shell line of the user's, run on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from types import FrameType


def run_line(line: str, env: Mapping[str, str], *, output: int = 1) -> int:
    """Run a line in ``sh``, with ``env`` added to the variables, and return its exit code as a shell reports it.

    Its stdout goes to the descriptor ``output``; stdin and the terminal are this process's. Ctrl-C and Ctrl-\\ end
    the line, not this process, and SIGTERM is passed on to it.
    """
    asked: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            asked.append(number)

    # Handlers are not inherited, as ignored signals would be.
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)}
    try:
        process = subprocess.Popen(["/bin/sh", "-c", line], env={**os.environ, **env}, stdout=output)
        while (status := _ended(process)) is None:
            if asked:
                asked.clear()
                process.terminate()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    """Return how the process ended; None if it runs. Waits briefly: a signal may reach another thread first."""
    try:
        return process.wait(0.5)
    except subprocess.TimeoutExpired:
        return None
