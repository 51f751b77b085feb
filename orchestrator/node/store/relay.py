"""The verb ``relay``: receive data and pass it on to the next node while it arrives."""

from __future__ import annotations

import hmac
import os
import select
import socket
import threading
import time

from ...protocol import frames
from ...protocol.refusal import Refused
from ...protocol.shapes import MOST, decoded, inflated
from ...protocol.transfer import Listen, ListeningAt, NextNodeState, PassOn, Progress, Received, RelayStatus
from ...protocol.tree import ROWS
from ..host import atomic, processes, shared_disk
from ..probe import dial, facts
from . import receipts, trees
from .abandoned import remove_abandoned
from .parts import Part, Records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...protocol.transfer import NextNode, Relay
    from ...protocol.tree import Row

# Time limits in seconds: for linking two nodes, and for a transfer without progress.
LINK_LIMIT, STALL_LIMIT = 3.0, 30.0
# Interval between two progress reports, in seconds.
TELL_EVERY = 0.5
# Largest number of bytes to pass on at once.
PIECE = 256 * 1024


def answer(request: Relay, out: int) -> None:
    """Report the files that are missing below ``root``; unless ``look``, receive them and pass them on."""
    os.umask(processes.login_umask)
    root = os.path.realpath(os.path.expanduser(request.root))
    entries = listed(frames.read_frame(0))
    for entry in entries:
        trees.check_path(entry[0])
    records = Records(request.workdir, root)
    here = {index: Part(root, entry, records) for index, entry in enumerate(entries) if entry[1] == "file"}
    if request.look:
        lacking = tuple((index, 0) for index, part in here.items() if not part.whole())
        frames.send(out, RelayStatus(disk_id=None, addresses=(), lacking=lacking))
        return
    remove_abandoned(request.workdir)
    lacking_parts = {index: part for index, part in here.items() if not part.complete()}
    for entry in entries:
        if entry[1] != "file":
            make_folder_or_link(root, entry)
    known = RelayStatus(
        disk_id=shared_disk.of(request.workdir) if receipts.inside(root, request.workdir) else None,
        addresses=tuple(addresses()),
        lacking=tuple((index, part.have) for index, part in lacking_parts.items()),
    )
    frames.send(out, known)
    try:
        pass_on(entries, lacking_parts, out)
        if all(part.whole() for part in here.values()):
            receipts.write(request.workdir, root, entries)
    finally:
        records.save()


def listed(frame: tuple[bytes, bytes] | None) -> tuple[Row, ...]:
    """Return the entries in a data frame of deflated JSON; raises Refused if there is no frame."""
    if frame is None:
        raise Refused("the transfer broke off", "broken")
    payload = inflated(frame[1], 16 * frames.MAX_FRAME)
    return ROWS(decoded(payload, len(payload), MOST), "entries")


def addresses() -> list[tuple[str, str, int]]:
    """Return this node's addresses, beginning with the one that SSH came in on."""
    ssh = (facts.ssh_address() or "127.0.0.1").replace("::ffff:", "")
    known = facts.addresses()
    first = [entry for entry in known if entry[1] == ssh] or [("", ssh, 128 if ":" in ssh else 32)]
    return first[:1] + [entry for entry in known if entry[1] != ssh]


def pass_on(entries: Sequence[Row], lacking: Mapping[int, Part], out: int) -> None:
    """Receive the files from the previous node or the control side, write those in ``lacking``, and pass them on.

    Raises Refused if no data arrive within ``STALL_LIMIT`` seconds.
    """
    listen = frames.receive(0, Listen)
    if listen is None:
        return
    listeners = dial.opened(dial.listen_addresses(listen.listen), socket.SOCK_STREAM, 0)
    frames.send(out, ListeningAt(port=listeners[0].getsockname()[1]))
    order = frames.receive(0, PassOn)
    if order is None:
        return
    admitted = Admission(listeners, order.token)
    follower = Downstream(order.next) if order.next is not None else None
    frames.send(out, NextNodeState(next=follower.state if follower else None))
    ready, _, _ = select.select([0, admitted.woken], [], [], STALL_LIMIT)
    if not ready:
        raise Refused("no data arrived", "broken")
    source: Upstream | InputFrames = admitted.stream if admitted.stream is not None else InputFrames()
    damaged: list[str] = []
    complete, at, told = True, 0, 0.0
    for index, begin in order.files:
        part = lacking.get(index)
        left, position = entries[index][3] - begin, begin
        while left:
            piece = source.read(min(left, PIECE))
            if not piece:
                complete = False
                break
            if follower is not None:
                follower.send(piece)
            if part is not None:
                part.write(position, piece)
            left -= len(piece)
            position += len(piece)
            at += len(piece)
            if time.monotonic() - told > TELL_EVERY:
                told = time.monotonic()
                frames.send(out, Progress(at=at))
        if not complete:
            break
        if part is not None and not part.finish():
            damaged.append(entries[index][0])
    for part in lacking.values():
        part.close()
    state = follower.state if follower else None
    if follower is not None:
        follower.close()
    frames.send(out, Received(done=True, complete=complete, damaged=tuple(damaged), next=state))


class InputFrames:
    """The data frames of stdin, as a stream."""

    def __init__(self) -> None:
        self.buffer = memoryview(b"")

    def read(self, size: int) -> bytes | memoryview:
        """Return up to ``size`` bytes; b"" at the end of stdin."""
        if not self.buffer:
            try:
                frame = frames.read_frame(0)
            except frames.WireError:
                return b""
            if frame is None:
                return b""
            self.buffer = memoryview(frame[1])
        piece, self.buffer = self.buffer[:size], self.buffer[size:]
        return piece


class Upstream:
    """The stream that the previous node sends."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(STALL_LIMIT)

    def read(self, size: int) -> bytes | memoryview:
        """Return up to ``size`` bytes; b"" at the end, or if nothing arrives within ``STALL_LIMIT`` seconds."""
        try:
            return self.sock.recv(size)
        except OSError:
            return b""


class Admission:
    """Admits the previous node, in a thread: the first peer that presents the token.

    ``stream``: what that node sends; None until it is admitted. ``woken``: file descriptor that is readable then.
    """

    def __init__(self, listeners: Sequence[socket.socket], token: str) -> None:
        self.stream: Upstream | None = None
        self.woken, self.wake = os.pipe()
        self.listeners = listeners
        threading.Thread(target=self.wait, args=(token.encode("ascii"),), daemon=True).start()

    def wait(self, token: bytes) -> None:
        """Accept connections until a peer presents the token."""
        while self.stream is None:
            ready, _, _ = select.select(self.listeners, [], [])
            sock, _ = ready[0].accept()
            sock.settimeout(LINK_LIMIT)
            try:
                said = b""
                while len(said) < len(token):
                    piece = sock.recv(len(token) - len(said))
                    if not piece:
                        break
                    said += piece
                if hmac.compare_digest(said, token):
                    sock.sendall(b"k")
                    self.stream = Upstream(sock)
                    os.write(self.wake, b"k")
                    return
            except OSError:
                pass
            sock.close()


class Downstream:
    """The connection to the next node. ``state``: ``ok``, or why nothing more is sent to that node."""

    def __init__(self, door: NextNode) -> None:
        self.sock: socket.socket | None = None
        self.state = "the node has no address"
        for address in door.addresses:
            try:
                self.sock = socket.create_connection((address, door.port), LINK_LIMIT)
                self.sock.sendall(door.token.encode("ascii"))
                if self.sock.recv(1) != b"k":
                    raise OSError("another machine answers at %s" % address)
                self.sock.settimeout(STALL_LIMIT)
                self.state = "ok"
                return
            except OSError as error:
                self.state = "%s: %s" % (address, error)
                self.close()

    def send(self, piece: bytes | memoryview) -> None:
        """Send a piece; after the first failure, close the connection and send nothing more."""
        if self.sock is not None:
            try:
                self.sock.sendall(piece)
            except OSError as error:
                self.state = str(error)
                self.close()

    def close(self) -> None:
        """Close the connection."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None


def make_folder_or_link(root: str, entry: Row) -> None:
    """Create a folder or link of the data."""
    path, kind, _mode, _size, about = entry
    there = os.path.join(root, path)
    folder = there if kind == "dir" else os.path.dirname(there)
    os.makedirs(folder, exist_ok=True)
    if kind == "link" and not (os.path.islink(there) and os.readlink(there) == about):
        atomic.symlink(about, there)
