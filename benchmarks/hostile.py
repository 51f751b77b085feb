"""Send the control side what no node program would: ``python -m benchmarks.hostile [CASES]`` (default 10,000).

The messages of every verb are changed at random places, and random bytes are sent. Prints for each verb how many
cases there were, how many ended in an error and the slowest case in seconds, then the process's peak memory. Exits
with 1 if a case raises anything but one of orch's own errors, takes 5 s or longer, or writes outside the run's
folder, or if the peak is 200 MiB or more.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hostile import VERBS, Verb, error_of, mutated, outside


def fuzz(verb: Verb, cases: int, folder: Path) -> tuple[int, int, float]:
    """Run the cases; return how many there were, how many ended in an error, and the slowest one's seconds."""
    seen = [0, 0]
    slowest = 0.0
    before = {str(path.relative_to(folder)) for path in folder.rglob("*")}

    def one(said: bytes) -> None:
        nonlocal slowest
        began = time.monotonic()
        error = error_of(verb, said, folder)
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
    """Run the cases of every verb and return the exit code."""
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
    print(f"{total} cases in {time.monotonic() - began:.0f} s; peak memory {peak:.0f} MiB")
    return 0 if peak < 200 else 1


if __name__ == "__main__":
    sys.exit(main())
