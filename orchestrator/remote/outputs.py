"""Fetch what a run wrote on a node: the node offers, the inventory's ``outputs:`` decides, the bytes follow."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator import errors
from orchestrator.core.inventory.hosts import Outputs
from orchestrator.core.transfer.choice import OfferedFile, choose
from orchestrator.protocol import frames
from orchestrator.protocol.shapes import either
from orchestrator.protocol.transfer import AllSent, Chosen, Collect, Offered, Sending, Skipped
from orchestrator.remote.landing import Landing, Misplaced, fault_of
from orchestrator.remote.node import Call, Node

if TYPE_CHECKING:
    from orchestrator.protocol.frames import Frame

# How long a node may take over a file's next piece, in seconds.
PIECE_TIMEOUT = 20.0
# A node that sends more slowly than this, in bytes per second, would keep a run from its end.
SLOWEST = 16 * 1024
# How often to ask again where the newest snapshot was replaced by a newer one while it was fetched.
TURNS = 3
# How many times more than other messages an offer may hold: a hundred thousand files.
SCALE = 8
SENT = either(Skipped.from_wire, either(Sending.from_wire, AllSent.from_wire))


@dataclass(frozen=True)
class CollectedOutputs:
    """What came back, and by name what stayed on the node and why; ``size`` in bytes.

    ``lacking``: the entry of ``left`` that is, or belongs to, the newest snapshot.
    """

    files: int
    size: int
    left: tuple[str, ...]
    lacking: str | None = None


def collect(node: Node, run_id: str, outputs: Outputs, into: Path) -> CollectedOutputs:
    """Fetch a node's outputs into a folder, those that are not there already. A file is complete or not there.

    One that vanished or changed meanwhile stays, and the others come; if it was the newest snapshot, the node is
    asked again, for what took its place. Raises ConnectionLost, NodeProgramError, or OrchError if this machine
    cannot write them.
    """
    size = 0
    for turn in range(TURNS):
        found = _collected(node, run_id, outputs, into)
        size += found.size
        if not found.moved or turn == TURNS - 1:
            break
    return CollectedOutputs(found.files, size, found.left, found.lacking)


@dataclass(frozen=True)
class _Found(CollectedOutputs):
    """One turn of a collection; ``moved``: the newest snapshot changed under its hands."""

    moved: bool = False


def _collected(node: Node, run_id: str, outputs: Outputs, into: Path) -> _Found:
    call = node.call(Collect(run_id=run_id))
    try:
        offers = [OfferedFile(*entry) for entry in call.answer(Offered.from_wire, PIECE_TIMEOUT, SCALE).files]
        odd = [f"{each.path!r} ({fault})" for each in offers if (fault := fault_of(each.path, each.target))]
        sound = [each for each in offers if not fault_of(each.path, each.target)]
        if len({each.path for each in sound}) < len(sound):
            raise call.nonsense("it offers a file twice")
        choice = choose(sound, outputs)
        with Landing(into) as landing:
            wanted = [each for each in choice.chosen if each.target is None and not _there(each, landing)]
            call.channel.write(
                frames.message_frame(Chosen(files=tuple((each.path, each.size) for each in wanted)))
            )
            missed = _receive(call, wanted, landing) | _linked(choice.chosen, landing)
        stayed = {path: f"{path} ({why})" for path, why in missed.items()}
        moved = [entry for path, entry in stayed.items() if path in choice.newest]
        return _Found(
            files=len(choice.chosen) - len(missed),
            size=sum(each.size for each in wanted if each.path not in missed),
            left=(*choice.left, *stayed.values(), *odd),
            lacking=next(iter(moved), choice.lacking),
            moved=bool(moved),
        )
    except OSError as error:
        raise errors.OrchError(
            f"cannot write {error.filename or into}: {error.strerror}",
            remedy="make room; the outputs are still on the node",
            host=node.name,
        ) from None
    finally:
        call.channel.close()


def _receive(call: Call, wanted: Sequence[OfferedFile], landing: Landing) -> dict[str, str]:
    """Write the files that arrive, in the order in which they were asked for; those that did not come, and why."""
    missed: dict[str, str] = {}
    least = sum(each.size for each in wanted) / SLOWEST
    coming = call.frames(PIECE_TIMEOUT, time.monotonic() + PIECE_TIMEOUT + least)
    for offer in wanted:
        about = _about(call, coming)
        pieces = _pieces(call, coming, offer)
        if isinstance(about, AllSent) or about.path != offer.path:
            path = "the end" if isinstance(about, AllSent) else about.path
            raise call.nonsense(f"it sends {path!r} instead of {offer.path!r}")
        if isinstance(about, Skipped):
            missed[offer.path] = about.skipped
            continue
        if about.size != offer.size:
            raise call.nonsense(f"{about.size} bytes of {offer.path!r}, which it offered with {offer.size}")
        try:
            with landing.file(offer.path, about.mode, offer.mtime_ns) as write:
                for piece in pieces:
                    write(piece)
        except _Shrank:
            missed[offer.path] = "changed while it was fetched"
        except Misplaced as error:
            missed[offer.path] = str(error)
            with suppress(_Shrank):
                deque(pieces, maxlen=0)
    if not isinstance(_about(call, coming), AllSent):
        raise call.nonsense("it sends more than was asked for")
    return missed


class _Shrank(Exception):
    """A file has become shorter while it was sent."""


def _about(call: Call, coming: Iterator[Frame]) -> Sending | Skipped | AllSent:
    for kind, payload in coming:
        if kind != frames.JSON:
            raise call.nonsense("data that nobody asked for")
        return call.shaped(payload, SENT)
    raise call.ended()


def _pieces(call: Call, coming: Iterator[Frame], offer: OfferedFile) -> Iterator[bytes]:
    """The bytes of one file, exactly as many as were offered; raises _Shrank if the node has no more."""
    left = offer.size
    while left:
        kind, piece = next(coming, (b"", b""))
        if not kind:
            raise call.ended()
        if kind == frames.JSON and isinstance(call.shaped(piece, SENT), Skipped):
            raise _Shrank
        if kind != frames.DATA or not 0 < len(piece) <= left:
            raise call.nonsense(f"more of {offer.path!r} than it offered, or nothing")
        left -= len(piece)
        yield piece


def _linked(chosen: Sequence[OfferedFile], landing: Landing) -> dict[str, str]:
    """Make the links; those that could not be made, and why."""
    missed = {}
    for offer in chosen:
        if offer.target is not None:
            try:
                landing.link(offer.path, offer.target)
            except Misplaced as error:
                missed[offer.path] = str(error)
    return missed


def _there(offer: OfferedFile, landing: Landing) -> bool:
    """Whether an earlier collection fetched this very version."""
    status = landing.status(offer.path)
    return status is not None and (status.st_size, status.st_mtime_ns) == (offer.size, offer.mtime_ns)
