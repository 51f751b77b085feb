"""Wait for a condition or for a process's output, no longer than needed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any


def until(condition: Callable[[], Any], seconds: float) -> Any:
    """Return the condition's first true value. Raises AssertionError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"the condition did not become true within {seconds} s")


def heard(process: subprocess.Popen[str], text: str) -> str:
    """Return a process's output up to and including the line that holds ``text``."""
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"{text!r} was not in: {''.join(lines)}")


def rest(process: subprocess.Popen[str]) -> str:
    """Return the rest of a process's output. ``communicate()`` would miss what ``heard`` has read ahead."""
    assert process.stdout
    printed = process.stdout.read()
    process.wait(60)
    return printed
