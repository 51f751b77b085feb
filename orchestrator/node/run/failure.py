"""Read which rank failed first on this node, and how, from what torchrun and its workers wrote."""

from __future__ import annotations

import glob
import json
import os
import re
import time

# torchrun's summary (torch/distributed/elastic/multiprocessing/errors/__init__.py, ChildFailedError).
ROOT_CAUSE = re.compile(
    r"Root Cause \(first observed failure\):.*?"
    r"time\s*: (?P<time>\S+).*?"
    r"rank\s*: (?P<rank>\d+) \(local_rank: (?P<local_rank>\d+)\).*?"
    r"exitcode\s*: (?P<code>-?\d+) \(pid: (?P<pid>\d+)\)",
    re.DOTALL,
)
# Number of bytes that ``tail`` reads.
TAIL = 64 * 1024


def summary(logs: str) -> tuple[int, int, int, int, float | None] | None:
    """Return the first failure on this node as ``(rank, local_rank, pid, exit code, time)``, or None.

    The exit code is negative for a signal. The time is in seconds since the epoch, or None if it cannot be parsed.
    """
    found = ROOT_CAUSE.search(tail(os.path.join(logs, "torchrun.log")))
    if found is None:
        return None
    rank, local_rank, pid, code = [int(found.group(name)) for name in ("rank", "local_rank", "pid", "code")]
    return rank, local_rank, pid, code, parsed_time(found.group("time"))


def tail(path: str) -> str:
    """Return the last ``TAIL`` bytes of a file as text; empty if the file cannot be read."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - TAIL))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def parsed_time(text: str) -> float | None:
    """Convert torchrun's local time, which has no zone, to seconds since the epoch; None for other formats."""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%d_%H:%M:%S"))
    except ValueError:
        return None


def recorded_message(logs: str, local_rank: int) -> str | None:
    """Return the exception in a worker's error file, which ``@record`` writes, or None."""
    found = glob.glob(os.path.join(glob.escape(logs), "*", "attempt_*", str(local_rank), "error.json"))
    for path in sorted(found, key=os.path.getmtime, reverse=True):
        try:
            with open(path) as file:
                message = json.load(file)["message"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return message.get("message") if isinstance(message, dict) else str(message)
    return None
