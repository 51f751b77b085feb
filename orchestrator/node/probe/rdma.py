"""Facts about InfiniBand and RoCE adapters (the kernel's Documentation/ABI/stable/sysfs-class-infiniband)."""

from __future__ import annotations

import glob
import os

from ...protocol.facts import RdmaPort
from . import machine


def ports(base: str = "/sys/class/infiniband") -> dict[str, RdmaPort]:
    """Return the adapters' ports by adapter and number, ``mlx5_0/1``."""
    found = {}
    for folder in sorted(glob.glob(base + "/*/ports/*")):
        adapter, _, port = folder[len(base) + 1 :].split("/")
        found["%s/%s" % (adapter, port)] = RdmaPort(
            state=machine.read(os.path.join(folder, "state")).rpartition(": ")[2],
            rate=machine.read(os.path.join(folder, "rate")),
            link=machine.read(os.path.join(folder, "link_layer")),
        )
    return found
