"""Waiting for what a test waits for, and for nothing else."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any


def until(condition: Callable[[], Any], seconds: float) -> Any:
    """What a condition gives as soon as it gives anything."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


def heard(process: subprocess.Popen[str], text: str) -> str:
    """What a process prints up to and including the line that holds ``text``."""
    assert process.stdout
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"{text!r} was not in: {''.join(lines)}")


def rest(process: subprocess.Popen[str]) -> str:
    """What it prints to its end. Not communicate(), which would miss what ``heard`` has read ahead."""
    assert process.stdout
    printed = process.stdout.read()
    process.wait(60)
    return printed
