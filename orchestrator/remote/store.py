"""The control's side of ``node/store.py``: find out what a node has of a tree, and send what it lacks."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence

from orchestrator import errors
from orchestrator.core.snapshot import Difference, Entry, Snapshot, difference
from orchestrator.node import wire
from orchestrator.remote.node import Call, Node
from orchestrator.remote.relay import as_sync_error, read

# How long a node may take over one answer: it links and hashes at most a few hundred megabytes meanwhile.
SILENCE = 120.0


class Push:
    """One node and one tree: what is there already, then the sending. ``close`` gives it up."""

    def __init__(self, node: Node, workdir: str, project: str, snapshot: Snapshot, *, look: bool = False) -> None:
        """Ask the node; with ``look`` nothing will be sent, and nothing is written there."""
        self.node = node
        self.workdir = workdir
        self.snapshot = snapshot
        request = {"workdir": workdir, "project": project, "tree": snapshot.tree_id, "look": look}
        self._call: Call = node.call("store", request)
        try:
            answer = self._call.answer(SILENCE)
            self.have: bool = answer["have"]
            self.place: str | None = answer["place"]
            self.known = _entries(self._call) if answer["base"] is not None else ()
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
            coming = (*change.added, *change.changed)
            entries = [[each.path, each.kind, each.mode, each.size, each.about] for each in coming]
            listing = json.dumps({"removed": change.removed, "entries": entries}, separators=(",", ":"))
            channel.write(wire.data_frame(zlib.compress(listing.encode("ascii"))))
            wanted = self._call.answer(SILENCE)["wanted"]
            try:
                for piece in _pieces(self._files(wanted)):
                    channel.write(wire.data_frame(piece))
                    progress(len(piece))
            except errors.ConnectionLost:
                # A node that refuses stops reading; its reason is worth more than the broken pipe.
                if not self.node.connection.alive:
                    raise
            self._call.answer(SILENCE)
        except errors.OrchError as error:
            raise as_sync_error(error) from None
        finally:
            self.close()
        return channel.sent

    def close(self) -> None:
        """Nothing more will be sent."""
        self._call.channel.close()

    def _files(self, wanted: Sequence[tuple[str, int, int]]) -> Iterator[bytes]:
        """The bytes of the files with these hashes and modes, in that order."""
        paths = {(entry.about, entry.mode): entry for entry in self.snapshot.entries if entry.kind == "file"}
        for sha, mode, _size in wanted:
            entry = paths[sha, mode]
            yield from read(self.snapshot.root / entry.path, entry)


def _pieces(parts: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces worth a packet, however small the files are."""
    waiting: list[bytes] = []
    size = 0
    for part in parts:
        waiting.append(part)
        size += len(part)
        if size >= wire.CHUNK:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _entries(call: Call) -> tuple[Entry, ...]:
    for kind, payload in call.frames(SILENCE):
        if kind == wire.DATA:
            return tuple(Entry(*entry) for entry in json.loads(zlib.decompress(payload)))
    raise call.ended()
