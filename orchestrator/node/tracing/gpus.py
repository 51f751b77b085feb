"""How busy the node's GPUs are, how fast they run, and what slows them down, from nvidia-smi."""

from __future__ import annotations

import contextlib
import subprocess

from ...protocol.run import GpuPace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

BASIC = "utilization.gpu,memory.used,memory.total,utilization.memory"
# Drivers know these since 2016; one that does not know a field answers nothing.
MORE = ",clocks.sm,clocks_throttle_reasons.active,temperature.gpu,power.draw"
# A kernel that waits for another GPU keeps its own busy, and hardly touches memory.
SPINS, TOUCHES = 0.9, 0.02
# Bits of nvmlClocksThrottleReasons (nvml.h): hardware, software and hardware for heat; power cap and brake.
HOT, POWER = 0x08 | 0x20 | 0x40, 0x04 | 0x80


class Gpus:
    """The GPUs of the node. ``query()`` is called often, and never blocks.

    ``loads``: of each GPU the share of time in use, 0 to 1, and memory used and in all, in bytes. ``touching``:
    the share of time in which its memory was read or written, None if that is not told. ``paces``: sums.
    """

    def __init__(self) -> None:
        self.loads: tuple[tuple[float, int, int], ...] = ()
        self.touching: tuple[float | None, ...] = ()
        self.paces: dict[int, GpuPace] = {}
        self.fields = BASIC + MORE
        self.there = True
        self.asking: subprocess.Popen[bytes] | None = None

    def query(self) -> None:
        """Read nvidia-smi's answer if there is one, and ask again; it may take seconds."""
        if self.asking is not None:
            if self.asking.poll() is None:
                return
            said, _ = self.asking.communicate()
            self.take(said.decode("ascii", "replace"), self.asking.returncode)
            self.asking = None
        if self.there:
            command = ["nvidia-smi", "--query-gpu=" + self.fields, "--format=csv,noheader,nounits"]
            try:
                self.asking = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )
            except OSError:
                self.there = False

    def take(self, text: str, code: int) -> None:
        """Take an answer of nvidia-smi and its exit code."""
        if code and self.fields != BASIC:
            self.fields = BASIC
            return
        rows = list(parsed(text))
        self.loads = tuple((row["busy"], int(row["used"]), int(row["total"])) for row in rows)
        self.touching = tuple(row.get("touching") for row in rows)
        self.paces = {number: added(self.paces.get(number), number, row) for number, row in enumerate(rows)}

    def work(self) -> bool:
        """Return whether a GPU reads or writes its memory."""
        return any(touched is not None and touched >= TOUCHES for touched in self.touching)

    def spin(self) -> bool:
        """Return whether a GPU is busy without touching its memory, as in a collective that waits."""
        pairs = zip(self.loads, self.touching)
        return any(load[0] >= SPINS and touched is not None and touched < TOUCHES for load, touched in pairs)

    def close(self) -> None:
        """End a running nvidia-smi."""
        if self.asking is not None:
            self.asking.kill()
            self.asking.communicate()
            self.asking = None


def parsed(text: str) -> list[dict[str, float]]:
    """Return what each line of nvidia-smi tells of a GPU, by name; skip lines of another form.

    ``busy`` and ``touching``: shares from 0 to 1. ``used`` and ``total``: bytes. ``clock``: MHz. ``slowed``: the
    bits of what slows it down. ``celsius``, ``watts``. What nvidia-smi does not tell is left out.
    """
    found = []
    names = ("busy", "used", "total", "touching", "clock", "slowed", "celsius", "watts")
    scales = {"busy": 0.01, "touching": 0.01, "used": 2.0**20, "total": 2.0**20}
    for line in text.splitlines():
        row = {}
        for name, word in zip(names, line.split(",")):
            with contextlib.suppress(ValueError):
                value = float(int(word, 16)) if word.strip().startswith("0x") else float(word)
                row[name] = value * scales.get(name, 1.0)
        if "busy" in row and "used" in row and "total" in row:
            found.append(row)
    return found


def added(before: GpuPace | None, number: int, row: Mapping[str, float]) -> GpuPace:
    """Return the sums of a GPU with one more look."""
    slowed = int(row.get("slowed", 0))
    known = before or GpuPace(gpu=number, looks=0, busy=0.0, clock=0.0, hot=0, limited=0)
    return GpuPace(
        gpu=number,
        looks=known.looks + 1,
        busy=known.busy + row["busy"],
        clock=known.clock + row.get("clock", 0.0),
        hot=known.hot + bool(slowed & HOT),
        limited=known.limited + bool(slowed & POWER),
        celsius=row.get("celsius"),
        watts=row.get("watts"),
    )
