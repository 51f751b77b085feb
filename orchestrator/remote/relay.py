"""The control machine's side of ``node/store/relay.py``: a node that receives data and may pass them on."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from orchestrator import errors
from orchestrator.core.checks.facts import Address
from orchestrator.core.transfer.data import Lacking
from orchestrator.core.transfer.local_tree import Entry, LocalTree
from orchestrator.protocol import frames, transfer
from orchestrator.protocol.shapes import either
from orchestrator.remote.node import Node

# Longest silence of a node, in seconds: while it reads its files, and while data flow.
READING, FLOWING = 3600.0, 60.0


RELAYED = either(transfer.Progress.from_wire, transfer.Received.from_wire)


class RelayCall:
    """A relay call to one node, which answers what it lacks. Raises what ``Node`` raises; ``close`` ends it."""

    def __init__(
        self, node: Node, workdir: str, root: str, entries: Sequence[Entry], *, look: bool = False
    ) -> None:
        """Ask the node what it lacks; with ``look`` nothing will be sent, and the node writes nothing."""
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
        self.disk_id = answer.disk_id
        self.addresses = tuple(Address(*entry) for entry in answer.addresses)
        lacking = {index: have for index, have in answer.lacking if index < len(entries)}
        if any(entries[index].kind != "file" or have > entries[index].size for index, have in lacking.items()):
            self.close()
            raise self._call.protocol_error("it asks for data that were not offered")
        self.lacking = Lacking(lacking)

    def listen(self, addresses: Sequence[str]) -> int:
        """Make the node listen at these addresses only; return the port."""
        self._call.channel.write(frames.message_frame(transfer.Listen(listen=tuple(addresses))))
        return self._call.answer(transfer.ListeningAt.from_wire, FLOWING).port

    def order(self, token: str, hop: transfer.NextNode | None, files: Sequence[tuple[int, int]]) -> str | None:
        """Send the token, the next node and the files to expect; return the state of the next node."""
        order = transfer.PassOn(token=token, next=hop, files=tuple(files))
        self._call.channel.write(frames.message_frame(order))
        return self._call.answer(transfer.NextNodeState.from_wire, FLOWING).next

    def feed(self, pieces: Iterator[bytes]) -> None:
        """Send the data to this node, which passes them on."""
        try:
            for piece in pieces:
                self._call.channel.write(frames.data_frame(piece))
            self._call.channel.end_input()
        except errors.ConnectionLost:
            # A node that refuses stops reading; its answer tells more than the failed write.
            if not self.node.connection.alive:
                raise

    def result(self, progress: Callable[[int], object]) -> transfer.Received:
        """Wait for the end of the pass, reporting bytes received. Raises SyncError, ConnectionLost."""
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
        """End the call."""
        self._call.channel.close()


def scale_for(entries: int) -> int:
    """Return the size limit of an answer about this many files, as a multiple of the usual one."""
    return 1 + entries // 1000


def as_sync_error(error: errors.OrchError) -> errors.OrchError:
    """Return a NodeProgramError as a SyncError, since it occurred while the node received; others unchanged."""
    if isinstance(error, errors.NodeProgramError):
        full = "No space left" in error.message
        remedy = "make room there: orch sync --prune, or a larger workdir:" if full else error.remedy
        return errors.SyncError(error.message, remedy=remedy, host=error.host)
    return error


def contents(tree: LocalTree, files: Sequence[tuple[int, int]], rate: float | None) -> Iterator[bytes]:
    """Yield each file's bytes from its first byte wanted, at most ``rate`` bytes a second. Raises SyncError."""
    began, given = time.monotonic(), 0
    for index, first in files:
        entry = tree.entries[index]
        for piece in read(tree.root / entry.path, entry, first):
            if rate is not None:
                time.sleep(max(0.0, began + given / rate - time.monotonic()))
            given += len(piece)
            yield piece


def read(path: Path, entry: Entry, first: int = 0) -> Iterator[bytes]:
    """Yield a file's bytes from ``first`` on, as many as its entry says. Raises SyncError if it cannot be read."""
    left = entry.size - first
    try:
        with path.open("rb") as file:
            file.seek(first)
            while left:
                # A file that shrank meanwhile is padded here; the node refuses it by its hash.
                piece = file.read(min(left, frames.CHUNK)) or b"\0" * min(left, frames.CHUNK)
                yield piece
                left -= len(piece)
    except OSError as error:
        raise errors.SyncError(
            f"{entry.path!r} changed while it was sent: {error.strerror}", remedy="run the command again"
        ) from None
