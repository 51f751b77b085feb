"""The control's side of ``node/store.py``: find out what a node has of a tree, and send what it lacks."""

from __future__ import annotations

import json
import secrets
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple

from orchestrator import errors
from orchestrator.core.snapshot import Difference, Entry, Snapshot, difference
from orchestrator.node import wire
from orchestrator.remote.node import Call, Node

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
            raise _as_sync_error(error) from None

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
            entries = [astuple(entry) for entry in (*change.added, *change.changed)]
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
            raise _as_sync_error(error) from None
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
            yield from _contents(self.snapshot, paths[sha, mode], self.node.name)


def _contents(snapshot: Snapshot, entry: Entry, host: str) -> Iterator[bytes]:
    left = entry.size
    try:
        with (snapshot.root / entry.path).open("rb") as file:
            while left:
                # A file that shrank meanwhile is padded here and refused by its hash there.
                piece = file.read(min(left, wire.CHUNK)) or b"\0" * min(left, wire.CHUNK)
                yield piece
                left -= len(piece)
    except OSError as error:
        reason = f"{entry.path!r} changed while it was sent: {error.strerror}"
        raise errors.SyncError(reason, remedy="run it again", host=host) from None


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


def _as_sync_error(error: errors.OrchError) -> errors.OrchError:
    """What goes wrong on a node while it takes a tree in is a failed sync, whatever it is there."""
    if isinstance(error, errors.NodeProgramError):
        full = "No space left" in error.message
        remedy = "make room there: orch sync --prune, or set workdir: to a larger disk" if full else error.remedy
        return errors.SyncError(error.message, remedy=remedy, host=error.host)
    return error


def share_a_disk(one: Push, other: Push) -> bool:
    """Whether two nodes' workdirs are one: a token written through one is seen through the other."""
    if one.place is None or one.place != other.place:
        return False
    token = secrets.token_hex(8)
    request = {"workdir": one.workdir, "token": token}
    one.node.ask("token", {**request, "write": True}, SILENCE)
    try:
        seen = other.node.ask("token", {**request, "workdir": other.workdir, "write": False}, SILENCE)
        return bool(seen["there"])
    finally:
        one.node.ask("token", {**request, "write": None}, SILENCE)
