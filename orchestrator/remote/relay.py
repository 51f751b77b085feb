"""The control's side of ``node/store/relay.py``: one node that receives data, and maybe passes them on."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from orchestrator import errors
from orchestrator.core.checks.facts import Address
from orchestrator.core.transfer.data import Lacking
from orchestrator.core.transfer.snapshot import Entry, Snapshot
from orchestrator.protocol import frames, transfer
from orchestrator.protocol.shapes import either
from orchestrator.remote.node import Node

# How long a node may be silent: while it reads what it has, and while data flow.
READING, FLOWING = 3600.0, 60.0


RELAYED = either(transfer.Progress.from_wire, transfer.Received.from_wire)


class RelayCall:
    """A node that was asked what it lacks of some data. Raises what ``Node`` does; ``close`` gives it up."""

    def __init__(
        self, node: Node, workdir: str, root: str, entries: Sequence[Entry], *, look: bool = False
    ) -> None:
        """Ask the node; with ``look`` nothing will be sent, and nothing is written there."""
        self.node = node
        self.workdir = workdir
        self._scale = scale_for(len(entries))
        self._call = node.call(transfer.Relay(workdir=workdir, root=root, look=look))
        listing = json.dumps([entry.row for entry in entries], separators=(",", ":"))
        try:
            self._call.channel.write(frames.data_frame(zlib.compress(listing.encode("ascii"))))
            answer = self._call.answer(transfer.RelayStatus.from_wire, READING, self._scale)
        except errors.OrchError as error:
            self.close()
            raise as_sync_error(error) from None
        self.place = answer.place
        self.addresses = tuple(Address(*entry) for entry in answer.addresses)
        lacking = {index: have for index, have in answer.lacking if index < len(entries)}
        if any(entries[index].kind != "file" or have > entries[index].size for index, have in lacking.items()):
            self.close()
            raise self._call.nonsense("it lacks what was not offered")
        self.lacking = Lacking(lacking)

    def listen(self, addresses: Sequence[str]) -> int:
        """Let it listen at these addresses and no others; the port."""
        self._call.channel.write(frames.message_frame(transfer.Listen(listen=tuple(addresses))))
        return self._call.answer(transfer.ListeningAt.from_wire, FLOWING).port

    def order(self, token: str, hop: transfer.NextNode | None, files: Sequence[tuple[int, int]]) -> str | None:
        """Say whom to let in, whom to pass on to, and what will come; how the node after it answered."""
        order = transfer.PassOn(token=token, next=hop, files=tuple(files))
        self._call.channel.write(frames.message_frame(order))
        return self._call.answer(transfer.NextNodeState.from_wire, FLOWING).next

    def feed(self, pieces: Iterator[bytes]) -> None:
        """Send the data itself to this node, which passes them on."""
        try:
            for piece in pieces:
                self._call.channel.write(frames.data_frame(piece))
            self._call.channel.end_input()
        except errors.ConnectionLost:
            # A node that refuses stops reading; what it says is worth more.
            if not self.node.connection.alive:
                raise

    def result(self, progress: Callable[[int], object]) -> transfer.Received:
        """Wait for the end of the pass; raises SyncError, ConnectionLost."""
        try:
            while True:
                answer = self._call.answer(RELAYED, FLOWING, self._scale)
                if isinstance(answer, transfer.Received):
                    return answer
                progress(answer.at)
        except errors.OrchError as error:
            raise as_sync_error(error) from None
        finally:
            self.close()

    def close(self) -> None:
        """Nothing more is wanted of it."""
        self._call.channel.close()


def scale_for(entries: int) -> int:
    """How many times more than usual an answer about so many files may hold."""
    return 1 + entries // 1000


def as_sync_error(error: errors.OrchError) -> errors.OrchError:
    """What goes wrong on a node while it takes something in is a failed sync, whatever it is there."""
    if isinstance(error, errors.NodeProgramError):
        full = "No space left" in error.message
        remedy = "make room there: orch sync --prune, or another disk" if full else error.remedy
        return errors.SyncError(error.message, remedy=remedy, host=error.host)
    return error


def contents(snapshot: Snapshot, files: Sequence[tuple[int, int]], rate: float | None) -> Iterator[bytes]:
    """The bytes of files from some byte on, in pieces, at most ``rate`` bytes a second; raises SyncError."""
    began, given = time.monotonic(), 0
    for index, first in files:
        entry = snapshot.entries[index]
        for piece in read(snapshot.root / entry.path, entry, first):
            if rate is not None:
                time.sleep(max(0.0, began + given / rate - time.monotonic()))
            given += len(piece)
            yield piece


def read(path: Path, entry: Entry, first: int = 0) -> Iterator[bytes]:
    """A file's bytes from ``first`` on, as many as its entry says; raises SyncError if it cannot be read."""
    left = entry.size - first
    try:
        with path.open("rb") as file:
            file.seek(first)
            while left:
                # A file that shrank meanwhile is padded here and refused by its hash there.
                piece = file.read(min(left, frames.CHUNK)) or b"\0" * min(left, frames.CHUNK)
                yield piece
                left -= len(piece)
    except OSError as error:
        raise errors.SyncError(
            f"{entry.path!r} changed while it was sent: {error.strerror}", remedy="run it again"
        ) from None
