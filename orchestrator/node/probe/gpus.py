"""Facts about a node's GPUs, from nvidia-smi and the kernel's log."""

from __future__ import annotations

import re
import shutil

from ..host import bounded

# Time limit of a call of nvidia-smi, in seconds.
LIMIT = 8.0
# "NVRM: Xid (PCI:0000:3b:00): 79, pid=1234, name=python, GPU has fallen off the bus."
XID = re.compile(r"NVRM: Xid \(PCI:([^)]+)\): (\d+), ?(.*)")
STYLING = re.compile(r"\x1b\[[0-9;]*m")
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


def devices() -> tuple[dict[str, str], ...]:
    """Return ``{field: text}`` for each GPU; empty where there is no nvidia-smi. Raises NoAnswer if it fails."""
    if shutil.which("nvidia-smi") is None:
        return ()
    text = bounded.run(["nvidia-smi", "--query-gpu=" + ",".join(FIELDS), "--format=csv,noheader,nounits"], LIMIT)
    found = []
    for line in text.splitlines():
        values = [value.strip() for value in line.split(",")]
        if len(values) != len(FIELDS):
            raise bounded.NoAnswer("nvidia-smi printed an unexpected line: %r" % line[:100])
        found.append({field: value for field, value in zip(FIELDS, values)})  # noqa: C416
    return tuple(found)


def users() -> tuple[tuple[int, str, str], ...]:
    """Return the processes that hold GPU memory: ``((pid, program, MiB), ...)``. Raises NoAnswer."""
    if shutil.which("nvidia-smi") is None:
        return ()
    query = ["nvidia-smi", "--query-compute-apps=pid,process_name,used_memory", "--format=csv,noheader,nounits"]
    rows = [line.split(",") for line in bounded.run(query, LIMIT).splitlines()]
    return tuple(
        (int(row[0]), row[1].strip(), row[2].strip()) for row in rows if len(row) == 3 and row[0].isdigit()
    )


def peers() -> tuple[tuple[int, int, str], ...]:
    """Return the pairs of GPUs without access to each other's memory: ``((i, j, nvidia-smi's reason), ...)``.

    Raises NoAnswer.
    """
    if shutil.which("nvidia-smi") is None:
        return ()
    rows = {}
    for line in STYLING.sub("", bounded.run(["nvidia-smi", "topo", "-p2p", "r"], LIMIT)).splitlines():
        words = line.split()
        if len(words) > 1 and re.match(r"GPU\d+\Z", words[0]) and "X" in words:
            rows[int(words[0][3:])] = words[1:]
    return tuple(
        (i, j, word) for i, row in sorted(rows.items()) for j, word in enumerate(row) if i < j and word != "OK"
    )


def errors() -> tuple[tuple[str, int, str], ...]:
    """Return the newest Xid error of each kind and GPU since boot: ``((bus id, number, text), ...)``.

    The errors are read from the kernel's log; empty if this user may not read it.
    """
    if shutil.which("nvidia-smi") is None:
        return ()
    text = ""
    for argv in (
        ["journalctl", "-k", "-b", "--no-pager", "-o", "cat", "-n", "200", "-g", "NVRM: Xid"],
        ["sh", "-c", "dmesg | grep -a 'NVRM: Xid' | tail -n 200"],
    ):
        try:
            text = bounded.run(argv, LIMIT / 2)
        except bounded.NoAnswer:
            continue
        if text:
            break
    found = {(match[1], int(match[2])): match[3] for match in map(XID.search, text.splitlines()) if match}
    return tuple((bus, number, said[:200]) for (bus, number), said in sorted(found.items()))
