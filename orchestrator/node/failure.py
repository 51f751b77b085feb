"""Which rank failed first on this node, and how: read from what torchrun leaves behind."""

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
TAIL = 64 * 1024


def find(logs):
    """The first failure on this node as a list of one dict, or of none.

    Keys: rank, local_rank, pid, exit_code or signal, and message where the script is decorated with
    ``@record`` and so wrote an error file.
    """
    summary = ROOT_CAUSE.search(tail(os.path.join(logs, "torchrun.log")))
    if summary is None:
        return []
    code = int(summary.group("code"))
    local_rank = int(summary.group("local_rank"))
    return [
        {
            "rank": int(summary.group("rank")),
            "local_rank": local_rank,
            "pid": int(summary.group("pid")),
            "exit_code": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "failed_at": parsed_time(summary.group("time")),
            "message": recorded_message(logs, local_rank),
        }
    ]


def tail(path):
    """The last part of a text file."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - TAIL))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def parsed_time(text):
    """torchrun's local time without a zone, in seconds since the epoch; None if it is written otherwise."""
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%d_%H:%M:%S"))
    except ValueError:
        return None


def recorded_message(logs, local_rank):
    """The exception in the error file of a worker decorated with ``@record``, or None."""
    for path in glob.glob(os.path.join(glob.escape(logs), "*", "attempt_0", str(local_rank), "error.json")):
        try:
            with open(path) as file:
                message = json.load(file)["message"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return message.get("message") if isinstance(message, dict) else str(message)
    return None
