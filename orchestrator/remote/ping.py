"""Pings from the control machine, by the system's own program: ICMP needs privileges that orch does not have."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping

from orchestrator.remote.fanout import on_all

COUNT = 5
LIMIT = 5.0
SUMMARY = re.compile(r"(\d+(?:\.\d+)?)% packet loss")
TIMES = re.compile(r"= [\d.]+/([\d.]+)/")


def options(system: str) -> list[str]:
    """Return a system's ping options; ``-W`` is in seconds on Linux, in milliseconds on macOS and the BSDs."""
    return ["-n", "-q", "-c", str(COUNT), "-i", "0.2", "-W", "1" if system == "linux" else "1000"]


def ping(addresses: Mapping[str, str]) -> dict[str, dict[str, float | None]]:
    """Return ``{"loss": 0 to 1, "rtt": mean seconds or None}`` by host name, empty if there is no ping program."""
    program = shutil.which("ping")
    if program is None:
        return {}

    def one(item: tuple[str, str]) -> tuple[str, dict[str, float | None]] | None:
        name, address = item
        argv = [program, *options(sys.platform), address]
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        lost, times = SUMMARY.search(done.stdout), TIMES.search(done.stdout)
        if lost is None:
            return None
        rtt = float(times.group(1)) / 1e3 if times else None
        return name, {"loss": float(lost.group(1)) / 100, "rtt": rtt}

    found = on_all(list(addresses.items()), one, limit=len(addresses) or 1)
    return dict(each for each in found if isinstance(each, tuple))
