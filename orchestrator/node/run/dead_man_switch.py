"""When a run ends although nobody stops it: its control machine is away for too long, or it is cut off.

The first is the user's choice (``--on-disconnect stop:SECONDS``). The second goes with ``--max-restarts``: a
node that can reach neither the control machine nor any other node of the run has been replaced by now.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...protocol.run import CutOff

CONTACT = "contact"
PROBE_TIMEOUT = 3.0
PROBE_INTERVAL = 5.0


class DeadManSwitch:
    """``ended()`` says why the run should end now, or None."""

    def __init__(self, folder: str, on_disconnect: float | None, cut_off: CutOff | None) -> None:
        self.path = os.path.join(folder, CONTACT)
        self.on_disconnect = on_disconnect
        self.cut_off = cut_off
        self.heard = time.monotonic()
        self.prober: threading.Thread | None = None
        self.probed_at = 0.0
        self.alone = 0

    def ended(self) -> str | None:
        """Why the run should end: a short text, or None if it may go on."""
        if self.on_disconnect is None and self.cut_off is None:
            return None
        # It only grows: a note that cannot be read now takes nothing back.
        self.heard = max(self.heard, contact(self.path))
        silence = time.monotonic() - self.heard
        if self.on_disconnect is not None and silence > self.on_disconnect:
            return "no control machine for %d s" % self.on_disconnect
        if self.cut_off is None or silence < self.cut_off.after:
            self.alone = 0
            return None
        self.probe(self.cut_off.peers)
        return "cut off from the control machine and from every other node" if self.alone > 1 else None

    def probe(self, peers: Sequence[tuple[str, int]]) -> None:
        """Look for the other nodes, beside whatever else goes on; ``alone`` counts the looks in vain."""
        if self.prober is not None and self.prober.is_alive():
            return
        if peers and time.monotonic() - self.probed_at > PROBE_INTERVAL:
            self.probed_at = time.monotonic()
            self.prober = threading.Thread(target=self.look, args=(peers,), daemon=True)
            self.prober.start()

    def look(self, peers: Sequence[tuple[str, int]]) -> None:
        """One look at all the others."""
        self.alone = 0 if any_answers(peers, PROBE_TIMEOUT) else self.alone + 1


def touch(folder: str) -> None:
    """Note that the control machine has been heard, by the clock that all processes of a host share.

    One write over the old note, of the same length: a reader finds one of the two, and a full disk has room.
    """
    handle = os.open(os.path.join(folder, CONTACT), os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.pwrite(handle, b"%020.6f" % time.monotonic(), 0)
    finally:
        os.close(handle)


def contact(path: str) -> float:
    """When the control machine was last heard; 0 for never."""
    try:
        with open(path) as file:
            return float(file.read())
    except (OSError, ValueError):
        return 0.0


def any_answers(addresses: Sequence[tuple[str, int]], timeout: float) -> bool:
    """Whether any of ``(address, port)`` answers within ``timeout`` seconds; a refusal is an answer too."""
    waiting = []
    try:
        for address, port in addresses:
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
            waiting.append(sock)
            sock.setblocking(False)
            if sock.connect_ex((address, port)) in (0, errno.ECONNREFUSED):
                return True
        deadline = time.monotonic() + timeout
        pending = list(waiting)
        while pending and time.monotonic() < deadline:
            _, ready, _ = select.select([], pending, [], deadline - time.monotonic())
            for sock in ready:
                if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in (0, errno.ECONNREFUSED):
                    return True
                pending.remove(sock)
        return False
    finally:
        for sock in waiting:
            sock.close()
