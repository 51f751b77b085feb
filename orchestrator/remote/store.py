"""The control's side of ``node/store/trees.py``: find out what a node has of a tree, and send what it lacks."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence

from orchestrator import errors
from orchestrator.core.transfer.snapshot import Difference, Entry, Snapshot, difference
from orchestrator.protocol import frames
from orchestrator.protocol.shapes import Misshapen, decoded, inflated, many
from orchestrator.protocol.transfer import Change, MissingBlobs, Stock, Store, Stored
from orchestrator.protocol.tree import ROW
from orchestrator.remote.node import Call, Node
from orchestrator.remote.relay import as_sync_error, read, scale_for

# How long a node may take over one answer: it links and hashes at most a few hundred megabytes meanwhile.
ANSWER_TIMEOUT = 120.0


class Push:
    """One node and one tree: what is there already, then the sending. ``close`` gives it up."""

    def __init__(self, node: Node, workdir: str, project: str, snapshot: Snapshot, *, look: bool = False) -> None:
        """Ask the node; with ``look`` nothing will be sent, and nothing is written there."""
        self.node = node
        self.workdir = workdir
        self.snapshot = snapshot
        request = Store(workdir=workdir, project=project, tree=snapshot.tree_id, look=look)
        self._call: Call = node.call(request)
        try:
            stock = self._call.answer(Stock.from_wire, ANSWER_TIMEOUT)
            self.have = stock.have
            self.place = stock.place
            self._scale = scale_for(len(snapshot.entries))
            self.known = self._entries() if stock.base is not None else ()
        except errors.OrchError as error:
            self.close()
            raise as_sync_error(error) from None

    @property
    def difference(self) -> Difference:
        """What the node's newest tree of this project lacks, and what it has too much."""
        return difference(self.known, self.snapshot.entries)

    def send(self, progress: Callable[[int], object] = lambda size: None) -> int:
        """Send what is lacking; returns the bytes sent. ``progress`` is called with bytes as they go.

        Raises SyncError if it cannot arrive whole, ConnectionLost.
        """
        channel = self._call.channel
        try:
            change = self.difference
            coming = tuple(each.row for each in (*change.added, *change.changed))
            message = Change(removed=change.removed, entries=coming)
            listing = json.dumps(message.to_wire(), separators=(",", ":"))
            channel.write(frames.data_frame(zlib.compress(listing.encode("ascii"))))
            wanted = self._call.answer(MissingBlobs.from_wire, ANSWER_TIMEOUT, self._scale).wanted
            try:
                for piece in _pieces(self._files(wanted)):
                    channel.write(frames.data_frame(piece))
                    progress(len(piece))
            except errors.ConnectionLost:
                # A node that refuses stops reading; its reason is worth more than the broken pipe.
                if not self.node.connection.alive:
                    raise
            self._call.answer(Stored.from_wire, ANSWER_TIMEOUT)
        except errors.OrchError as error:
            raise as_sync_error(error) from None
        finally:
            self.close()
        return channel.sent

    def close(self) -> None:
        """Nothing more will be sent."""
        self._call.channel.close()

    def _entries(self) -> tuple[Entry, ...]:
        """The entries of the tree that the node goes by."""
        try:
            # Twice as many as the new tree has, or a hundred thousand: more is no project's earlier state.
            most = 600_000 + 12_000 * self._scale
            listing = decoded(inflated(self._call.data(ANSWER_TIMEOUT), 40 * most), 40 * most, most)
            return tuple(Entry(*entry) for entry in many(ROW, most)(listing, "entries"))
        except Misshapen as error:
            raise self._call.nonsense(str(error)) from None

    def _files(self, wanted: Sequence[tuple[str, int, int]]) -> Iterator[bytes]:
        """The bytes of the files with these hashes and modes, in that order."""
        paths = {(entry.about, entry.mode): entry for entry in self.snapshot.entries if entry.kind == "file"}
        for sha, mode, _size in wanted:
            entry = paths.get((sha, mode))
            if entry is None:
                raise self._call.nonsense("it wants a file that was not offered")
            yield from read(self.snapshot.root / entry.path, entry)


def _pieces(parts: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces worth a packet, however small the files are."""
    waiting: list[bytes] = []
    size = 0
    for part in parts:
        waiting.append(part)
        size += len(part)
        if size >= frames.CHUNK:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)
