"""A shell line of the user's, run on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType


def run_line(line: str, env: Mapping[str, str], *, output: int = 1) -> int:
    """Run a line in ``sh``, with ``env`` added to the variables, and return its exit code as a shell reports it.

    Its stdout goes to the descriptor ``output``; stdin and the terminal are this process's. Ctrl-C reaches the
    line, not this process, and SIGTERM is passed on.
    """
    process = subprocess.Popen(["/bin/sh", "-c", line], env={**os.environ, **env}, stdout=output)
    with _leaving_signals_to(process):
        status = process.wait()
    return status if status >= 0 else 128 - status


@contextmanager
def _leaving_signals_to(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Let the terminal's signals reach the process alone while the body runs."""

    def handle(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            process.terminate()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
