"""The dead man's switch: ends a run whose control machine is gone, or that is cut off.

The user requests the first with ``--on-disconnect stop:SECONDS``. The second applies to runs with
``--max-restarts`` or ``--nnodes MIN:MAX``, where a node that reaches neither the control machine nor any other
node of the run has been given up by now.
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

# File in the attempt's folder that holds the monotonic time of the last contact with the control machine.
CONTACT = "contact"
# Time limit for one look for the other nodes, and shortest interval between two, in seconds.
PROBE_TIMEOUT = 3.0
PROBE_INTERVAL = 5.0


class DeadManSwitch:
    """The switch of one attempt.

    ``on_disconnect``: end the run after so many seconds without contact; None for never.
    ``cut_off``: when to end the run for lack of any contact, and the nodes to look for; None for never.
    """

    def __init__(self, folder: str, on_disconnect: float | None, cut_off: CutOff | None) -> None:
        self.path = os.path.join(folder, CONTACT)
        self.on_disconnect = on_disconnect
        self.cut_off = cut_off
        self.heard = time.monotonic()
        self.noted = 0.0
        self.prober: threading.Thread | None = None
        self.probed_at = 0.0
        self.failed_looks = 0

    def reason_to_end(self) -> str | None:
        """Return the reason why the run must end, or None if it may go on."""
        if self.on_disconnect is None and self.cut_off is None:
            return None
        # The note of a batch job is by another machine's clock, so only that it changes counts.
        noted = contact(self.path)
        if noted and noted != self.noted:
            self.noted, self.heard = noted, time.monotonic()
        silence = time.monotonic() - self.heard
        if self.on_disconnect is not None and silence > self.on_disconnect:
            return "no contact with the control machine for %d s" % self.on_disconnect
        if self.cut_off is None or silence < self.cut_off.after:
            self.failed_looks = 0
            return None
        self.probe(self.cut_off.peers)
        return "cut off from the control machine and from every other node" if self.failed_looks > 1 else None

    def probe(self, peers: Sequence[tuple[str, int]]) -> None:
        """Look for the other nodes in a thread, at most every ``PROBE_INTERVAL`` seconds."""
        if self.prober is not None and self.prober.is_alive():
            return
        if peers and time.monotonic() - self.probed_at > PROBE_INTERVAL:
            self.probed_at = time.monotonic()
            self.prober = threading.Thread(target=self.check, args=(peers,), daemon=True)
            self.prober.start()

    def check(self, peers: Sequence[tuple[str, int]]) -> None:
        """Look for the other nodes once; ``failed_looks`` counts the looks in a row that found none."""
        self.failed_looks = 0 if any_answers(peers, PROBE_TIMEOUT) else self.failed_looks + 1


def touch(folder: str) -> None:
    """Note that the control machine has been heard, by this machine's monotonic clock.

    One write replaces the old note by one of the same length, so a reader sees either, and it needs no disk space.
    Raises OSError.
    """
    handle = os.open(os.path.join(folder, CONTACT), os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.pwrite(handle, b"%020.6f" % time.monotonic(), 0)
    finally:
        os.close(handle)


def contact(path: str) -> float:
    """Return the newest note of a contact with the control machine; 0 for none."""
    try:
        with open(path) as file:
            return float(file.read())
    except (OSError, ValueError):
        return 0.0


def any_answers(addresses: Sequence[tuple[str, int]], timeout: float) -> bool:
    """Return whether any ``(address, port)`` answers within ``timeout`` seconds; a refused connection counts."""
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
