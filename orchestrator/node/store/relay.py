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
from . import prune, trees
from .parts import Part, Records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...protocol.transfer import NextNode, Relay
    from ...protocol.tree import Row

LINK_LIMIT, STALL_LIMIT = 3.0, 30.0
TELL_EVERY = 0.5
PIECE = 256 * 1024


def answer(request: Relay, out: int) -> None:
    """Look, receive, pass on."""
    os.umask(processes.login_umask)
    root = os.path.realpath(os.path.expanduser(request.root))
    entries = listed(frames.read_frame(0))
    for entry in entries:
        trees.check_path(entry[0])
    records = Records(request.workdir, root)
    here = {index: Part(root, entry, records) for index, entry in enumerate(entries) if entry[1] == "file"}
    if request.look:
        lacking = tuple((index, 0) for index, part in here.items() if not part.whole())
        frames.send(out, RelayStatus(place=None, addresses=(), lacking=lacking))
        return
    prune.remove_abandoned(request.workdir)
    lacking_parts = {index: part for index, part in here.items() if not part.there()}
    for entry in entries:
        if entry[1] != "file":
            make(root, entry)
    known = RelayStatus(
        place=shared_disk.of(request.workdir) if inside(root, request.workdir) else None,
        addresses=tuple(addresses()),
        lacking=tuple((index, part.have) for index, part in lacking_parts.items()),
    )
    frames.send(out, known)
    try:
        pass_on(entries, lacking_parts, out)
    finally:
        records.save()


def listed(frame: tuple[bytes, bytes] | None) -> tuple[Row, ...]:
    """The entries of a data frame of deflated JSON."""
    if frame is None:
        raise Refused("the transfer broke off", "broken")
    payload = inflated(frame[1], 16 * frames.MAX_FRAME)
    return ROWS(decoded(payload, len(payload), MOST), "entries")


def addresses() -> list[tuple[str, str, int]]:
    """This node's addresses, the one that SSH came in on first."""
    ssh = (facts.ssh_address() or "127.0.0.1").replace("::ffff:", "")
    known = facts.addresses()
    first = [entry for entry in known if entry[1] == ssh] or [("", ssh, 128 if ":" in ssh else 32)]
    return first[:1] + [entry for entry in known if entry[1] != ssh]


def inside(root: str, workdir: str) -> bool:
    """Whether a folder is below the workdir: only then a workdir that hosts share tells that they share it."""
    return root.startswith(os.path.join(os.path.realpath(os.path.expanduser(workdir)), ""))


def pass_on(entries: Sequence[Row], lacking: Mapping[int, Part], out: int) -> None:
    """Obey an order: take the files in from where it says, and send them on."""
    listen = frames.receive(0, Listen)
    if listen is None:
        return
    listeners = dial.opened(dial.own(listen.listen), socket.SOCK_STREAM, 0)
    frames.send(out, ListeningAt(port=listeners[0].getsockname()[1]))
    order = frames.receive(0, PassOn)
    if order is None:
        return
    admitted = Admission(listeners, order.token)
    follower = Downstream(order.next) if order.next is not None else None
    frames.send(out, NextNodeState(next=follower.state if follower else None))
    ready, _, _ = select.select([0, admitted.woken], [], [], STALL_LIMIT)
    if not ready:
        raise Refused("no data came", "broken")
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
    """The data frames of stdin."""

    def __init__(self) -> None:
        self.buffer = memoryview(b"")

    def read(self, size: int) -> bytes | memoryview:
        """Up to ``size`` bytes; none at the end."""
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
    """What the node before sends."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(STALL_LIMIT)

    def read(self, size: int) -> bytes | memoryview:
        """Up to ``size`` bytes; none at the end, or if nothing comes for too long."""
        try:
            return self.sock.recv(size)
        except OSError:
            return b""


class Admission:
    """Lets the node before in, in the background, once it has shown its token; nobody else, and only one.

    ``woken`` is readable from then on, ``stream`` what it sends.
    """

    def __init__(self, listeners: Sequence[socket.socket], token: str) -> None:
        self.stream: Upstream | None = None
        self.woken, self.wake = os.pipe()
        self.listeners = listeners
        threading.Thread(target=self.wait, args=(token.encode("ascii"),), daemon=True).start()

    def wait(self, token: bytes) -> None:
        """Until it is there."""
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
    """The node after this one. ``state`` is ``ok``, or why nothing more is sent to it."""

    def __init__(self, door: NextNode) -> None:
        self.sock: socket.socket | None = None
        self.state = "it has no address"
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
        """Pass a piece on; once that fails the follower is given up."""
        if self.sock is not None:
            try:
                self.sock.sendall(piece)
            except OSError as error:
                self.state = str(error)
                self.close()

    def close(self) -> None:
        """No more."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None


def make(root: str, entry: Row) -> None:
    """A folder or a link of the data."""
    path, kind, _mode, _size, about = entry
    there = os.path.join(root, path)
    folder = there if kind == "dir" else os.path.dirname(there)
    os.makedirs(folder, exist_ok=True)
    if kind == "link" and not (os.path.islink(there) and os.readlink(there) == about):
        atomic.symlink(about, there)
