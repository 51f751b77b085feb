"""The GPUs of a node, as nvidia-smi has them."""

import shutil

from . import bounded

LIMIT = 8.0
FIELDS = (
    "index",
    "name",
    "uuid",
    "driver_version",
    "memory.total",
    "memory.used",
    "utilization.gpu",
    "temperature.gpu",
    "ecc.errors.uncorrected.volatile.total",
    "persistence_mode",
    "compute_mode",
    "clocks_throttle_reasons.hw_slowdown",
)


def devices():
    """A list of ``{field: text}``; empty where there is no nvidia-smi. Raises Failed with what it said."""
    if shutil.which("nvidia-smi") is None:
        return []
    text = bounded.run(["nvidia-smi", "--query-gpu=" + ",".join(FIELDS), "--format=csv,noheader,nounits"], LIMIT)
    found = []
    for line in text.splitlines():
        values = [value.strip() for value in line.split(",")]
        if len(values) != len(FIELDS):
            raise bounded.Failed("nvidia-smi printed %r" % line[:100])
        found.append({field: value for field, value in zip(FIELDS, values)})  # noqa: B905, C416
    return found


def users():
    """Who holds GPU memory: ``[[pid, program, MiB], ...]``."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-compute-apps=pid,process_name,used_memory", "--format=csv,noheader,nounits"]
    rows = [line.split(",") for line in bounded.run(query, LIMIT).splitlines()]
    return [[int(row[0]), row[1].strip(), row[2].strip()] for row in rows if len(row) == 3 and row[0].isdigit()]
