"""Wait for a condition or for a process's output, no longer than needed."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# No process of a test is silent for so long, in seconds, unless it hangs. pytest's own limit comes later.
LIMIT = 150.0


def until(condition: Callable[[], Any], seconds: float) -> Any:
    """Return the condition's first true value. Raises AssertionError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"the condition did not become true within {seconds} s")


@contextmanager
def ending(process: subprocess.Popen[str]) -> Iterator[None]:
    """End a process that hangs; one of Python with ``PYTHONFAULTHANDLER`` then prints where its threads are."""
    timer = threading.Timer(LIMIT, process.send_signal, [signal.SIGABRT])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def heard(process: subprocess.Popen[str], text: str) -> str:
    """Return a process's output up to and including the line that holds ``text``."""
    assert process.stdout
    lines = []
    with ending(process):
        for line in process.stdout:
            lines.append(line)
            if text in line:
                return "".join(lines)
    raise AssertionError(f"{text!r} was not in: {''.join(lines)}")


def rest(process: subprocess.Popen[str]) -> str:
    """Return the rest of a process's output. ``communicate()`` would miss what ``heard`` has read ahead."""
    assert process.stdout
    with ending(process):
        printed = process.stdout.read()
        process.wait(60)
    assert process.returncode != -signal.SIGABRT, printed
    return printed
