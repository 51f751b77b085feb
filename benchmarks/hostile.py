"""Nodes that say what no node program would: ``python -m benchmarks.hostile [CASES]`` (10,000 unless given).

Messages of every verb are changed at random places, and bytes are made up. Prints for each verb how many cases there
were, how many ended in an error, the slowest case in seconds, and what the process needed at most; ends with 1 if one
raised anything but one of orch's own errors, took too long, or wrote outside the run's folder.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile import VERBS, Verb, mutated, outside, survived


def fuzz(verb: Verb, cases: int, folder: Path) -> tuple[int, int, float]:
    """How many cases there were, how many ended in an error, and how long the slowest took, in seconds."""
    seen = [0, 0]
    slowest = 0.0
    before = {str(path.relative_to(folder)) for path in folder.rglob("*")}

    def one(said: bytes) -> None:
        nonlocal slowest
        began = time.monotonic()
        error = survived(verb, said, folder)
        slowest = max(slowest, time.monotonic() - began)
        seen[0] += 1
        seen[1] += error is not None

    quiet = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
    for strategy in (mutated(verb.frames), st.binary(max_size=400)):
        settings(max_examples=cases // 2, **quiet)(given(strategy)(one))()
    if found := outside(folder, before):
        raise AssertionError(f"{verb.name}: wrote {sorted(found)}")
    return seen[0], seen[1], slowest


def main() -> int:
    """Run them all."""
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    began = time.monotonic()
    total = 0
    print(f"{'verb':<12} {'cases':>7} {'errors':>7} {'slowest':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for verb in VERBS:
            count, errors, slowest = fuzz(verb, -(-cases // len(VERBS)), Path(folder))
            total += count
            print(f"{verb.name:<12} {count:>7} {errors:>7} {slowest:>7.2f}s", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{total} cases in {time.monotonic() - began:.0f} s; at most {peak:.0f} MiB")
    return 0 if peak < 200 else 1


if __name__ == "__main__":
    sys.exit(main())
