"""Collection of a run's outputs: the node offers files, the inventory's ``outputs:`` selects, the node sends."""

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
from orchestrator.core.text.counted import counted
from orchestrator.core.transfer.choice import OfferedFile, choose
from orchestrator.protocol import frames
from orchestrator.protocol.shapes import either
from orchestrator.protocol.transfer import AllSent, Chosen, Collect, Offered, Sending, Skipped
from orchestrator.remote.landing import CannotLand, Landing, fault_of
from orchestrator.remote.node import Call, Node

if TYPE_CHECKING:
    from orchestrator.protocol.frames import Frame

# Longest wait for the next piece of a file, in seconds.
PIECE_TIMEOUT = 20.0
# Slowest rate accepted, in bytes per second; a slower node would keep the run from ending.
SLOWEST = 16 * 1024
# Most requests in all to a node whose newest snapshot is replaced while it is fetched.
TURNS = 3
# Size limit of an offer, as a multiple of other messages': room for a hundred thousand files.
SCALE = 8
SENT = either(Skipped.from_wire, either(Sending.from_wire, AllSent.from_wire))


@dataclass(frozen=True)
class CollectedOutputs:
    """The files that are now here, the size in bytes of those fetched, and what is left on the node, with reasons.

    ``lacking``: the entry of ``left`` that is, or belongs to, the newest snapshot.
    """

    files: int
    size: int
    left: tuple[str, ...]
    lacking: str | None = None


def collect(node: Node, run_id: str, outputs: Outputs, into: Path) -> CollectedOutputs:
    """Fetch a node's outputs into a folder, except those already there. Each file is written whole or not at all.

    A file that vanishes or changes meanwhile is left, and the others are fetched; if it belongs to the newest
    snapshot, the node is asked again, for its replacement. Raises ConnectionLost, NodeProgramError, or OrchError
    if this machine cannot write.
    """
    size = 0
    for turn in range(TURNS):
        found = _collected(node, run_id, outputs, into)
        size += found.size
        if not found.newest_changed or turn == TURNS - 1:
            break
    return CollectedOutputs(found.files, size, found.left, found.lacking)


@dataclass(frozen=True)
class _Found(CollectedOutputs):
    """The result of one request; ``newest_changed``: the newest snapshot changed while it was fetched."""

    newest_changed: bool = False


def _collected(node: Node, run_id: str, outputs: Outputs, into: Path) -> _Found:
    call = node.call(Collect(run_id=run_id))
    try:
        offers = [OfferedFile(*entry) for entry in call.answer(Offered.from_wire, PIECE_TIMEOUT, SCALE).files]
        odd = [f"{each.path!r} ({fault})" for each in offers if (fault := fault_of(each.path, each.target))]
        sound = [each for each in offers if not fault_of(each.path, each.target)]
        if len({each.path for each in sound}) < len(sound):
            raise call.protocol_error("it offers a file twice")
        choice = choose(sound, outputs)
        with Landing(into) as landing:
            wanted = [each for each in choice.chosen if each.target is None and not _there(each, landing)]
            call.channel.write(
                frames.message_frame(Chosen(files=tuple((each.path, each.size) for each in wanted)))
            )
            missed = _receive(call, wanted, landing) | _linked(choice.chosen, landing)
        stayed = {path: f"{path} ({why})" for path, why in missed.items()}
        newest_changed = [entry for path, entry in stayed.items() if path in choice.newest]
        return _Found(
            files=len(choice.chosen) - len(missed),
            size=sum(each.size for each in wanted if each.path not in missed),
            left=(*choice.left, *stayed.values(), *odd),
            lacking=next(iter(newest_changed), choice.lacking),
            newest_changed=bool(newest_changed),
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
    """Write the files that arrive, in the order of ``wanted``; return those that did not come, with reasons."""
    missed: dict[str, str] = {}
    least = sum(each.size for each in wanted) / SLOWEST
    coming = call.frames(PIECE_TIMEOUT, time.monotonic() + PIECE_TIMEOUT + least)
    for offer in wanted:
        about = _about(call, coming)
        pieces = _pieces(call, coming, offer)
        if isinstance(about, AllSent) or about.path != offer.path:
            path = "the end" if isinstance(about, AllSent) else about.path
            raise call.protocol_error(f"it sends {path!r} instead of {offer.path!r}")
        if isinstance(about, Skipped):
            missed[offer.path] = about.skipped
            continue
        if about.size != offer.size:
            raise call.protocol_error(
                f"{counted(about.size, 'byte')} of {offer.path!r}, which it offered with {offer.size}"
            )
        try:
            with landing.file(offer.path, about.mode, offer.mtime_ns) as write:
                for piece in pieces:
                    write(piece)
        except _Shrank:
            missed[offer.path] = "changed while it was fetched"
        except CannotLand as error:
            missed[offer.path] = str(error)
            with suppress(_Shrank):
                deque(pieces, maxlen=0)
    if not isinstance(_about(call, coming), AllSent):
        raise call.protocol_error("it sends more than was asked for")
    return missed


class _Shrank(Exception):
    """A file became shorter while it was sent."""


def _about(call: Call, coming: Iterator[Frame]) -> Sending | Skipped | AllSent:
    for kind, payload in coming:
        if kind != frames.JSON:
            raise call.protocol_error("data that was not asked for")
        return call.shaped(payload, SENT)
    raise call.ended()


def _pieces(call: Call, coming: Iterator[Frame], offer: OfferedFile) -> Iterator[bytes]:
    """Yield the bytes of one file, exactly as many as were offered. Raises _Shrank if the node has fewer."""
    left = offer.size
    while left:
        kind, piece = next(coming, (b"", b""))
        if not kind:
            raise call.ended()
        if kind == frames.JSON and isinstance(call.shaped(piece, SENT), Skipped):
            raise _Shrank
        if kind != frames.DATA or not 0 < len(piece) <= left:
            raise call.protocol_error(f"it sends more of {offer.path!r} than it offered, or nothing")
        left -= len(piece)
        yield piece


def _linked(chosen: Sequence[OfferedFile], landing: Landing) -> dict[str, str]:
    """Make the links; return those that could not be made, with reasons."""
    missed = {}
    for offer in chosen:
        if offer.target is not None:
            try:
                landing.link(offer.path, offer.target)
            except CannotLand as error:
                missed[offer.path] = str(error)
    return missed


def _there(offer: OfferedFile, landing: Landing) -> bool:
    """Return whether an earlier collection fetched this version."""
    status = landing.status(offer.path)
    return status is not None and (status.st_size, status.st_mtime_ns) == (offer.size, offer.mtime_ns)
