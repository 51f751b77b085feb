"""The control machine's side of ``node/store/trees.py``: ask what a node has of a tree, and send the rest."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence

from orchestrator import errors
from orchestrator.core.transfer.local_tree import Difference, Entry, LocalTree, difference
from orchestrator.protocol import frames
from orchestrator.protocol.shapes import Misshapen, decoded, inflated, many
from orchestrator.protocol.transfer import Change, MissingBlobs, Stock, Store, Stored
from orchestrator.protocol.tree import ROW
from orchestrator.remote.node import Call, Node
from orchestrator.remote.relay import as_sync_error, read, scale_for

# Longest wait for one answer, in seconds; the node links and hashes at most a few hundred megabytes meanwhile.
ANSWER_TIMEOUT = 120.0


class Push:
    """A push of one tree to one node: ask what the node has, then ``send`` the rest. ``close`` ends the call."""

    def __init__(self, node: Node, workdir: str, project: str, tree: LocalTree, *, look: bool = False) -> None:
        """Ask the node what it has; with ``look`` nothing will be sent, and the node writes nothing."""
        self.node = node
        self.workdir = workdir
        self.tree = tree
        request = Store(workdir=workdir, project=project, tree=tree.tree_id, look=look)
        self._call: Call = node.call(request)
        try:
            stock = self._call.answer(Stock.from_wire, ANSWER_TIMEOUT)
            self.have = stock.have
            self.disk_id = stock.disk_id
            self._scale = scale_for(len(tree.entries))
            self.known = self._entries() if stock.base is not None else ()
        except errors.OrchError as error:
            self.close()
            raise as_sync_error(error) from None

    @property
    def difference(self) -> Difference:
        """What has to be added, changed and removed in the node's newest tree of this project."""
        return difference(self.known, self.tree.entries)

    def send(self, progress: Callable[[int], object] = lambda size: None) -> int:
        """Send what the node lacks; return the bytes sent. ``progress`` is called with the size of each piece.

        Raises SyncError if the tree cannot arrive whole, ConnectionLost.
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
                # A node that refuses stops reading; its answer tells more than the broken pipe.
                if not self.node.connection.alive:
                    raise
            self._call.answer(Stored.from_wire, ANSWER_TIMEOUT)
        except errors.OrchError as error:
            raise as_sync_error(error) from None
        finally:
            self.close()
        return channel.sent

    def close(self) -> None:
        """End the call."""
        self._call.channel.close()

    def _entries(self) -> tuple[Entry, ...]:
        """Receive the entries of the tree that the difference is based on."""
        try:
            # A hundred thousand entries, and twice those of the new tree: no earlier state of a project has more.
            most = 600_000 + 12_000 * self._scale
            listing = decoded(inflated(self._call.data(ANSWER_TIMEOUT), 40 * most), 40 * most, most)
            return tuple(Entry(*entry) for entry in many(ROW, most)(listing, "entries"))
        except Misshapen as error:
            raise self._call.protocol_error(str(error)) from None

    def _files(self, wanted: Sequence[tuple[str, int, int]]) -> Iterator[bytes]:
        """Yield the bytes of the files with these hashes and modes, in that order."""
        paths = {(entry.about, entry.mode): entry for entry in self.tree.entries if entry.kind == "file"}
        for sha, mode, _size in wanted:
            entry = paths.get((sha, mode))
            if entry is None:
                raise self._call.protocol_error("it asks for a file that was not offered")
            yield from read(self.tree.root / entry.path, entry)


def _pieces(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in pieces of at least CHUNK bytes, except the last one, however small the files are."""
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
