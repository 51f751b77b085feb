"""Fetch what a run wrote on a node: the node offers, the inventory's ``outputs:`` decides, the bytes follow."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pathspec import GitIgnoreSpec

from orchestrator import errors
from orchestrator.core.inventory import Outputs
from orchestrator.core.messages import OFFERED
from orchestrator.node import wire
from orchestrator.remote.node import Call, Node

# How long a node may take over a file's next piece, in seconds.
SILENCE = 20.0


@dataclass(frozen=True)
class Offer:
    """A new or changed file on a node. ``target`` is set for a link."""

    path: str
    size: int
    mtime_ns: int
    target: str | None


@dataclass(frozen=True)
class Collected:
    """What came back, and by name what stayed on the node and why; ``size`` in bytes."""

    files: int
    size: int
    left: tuple[str, ...]


def choose(offers: Sequence[Offer], outputs: Outputs) -> tuple[list[Offer], list[str]]:
    """What to fetch, and what stays because of the size limit. Small files first, so that logs always come."""
    include, exclude = GitIgnoreSpec.from_lines(outputs.include), GitIgnoreSpec.from_lines(outputs.exclude)
    chosen, left = [], []
    room = outputs.max_bytes
    for offer in sorted(offers, key=lambda offer: (offer.size, offer.path)):
        if exclude.match_file(offer.path) or not include.match_file(offer.path):
            continue
        if offer.size > room:
            left.append(f"{offer.path} ({offer.size} bytes: over outputs.max_size)")
        elif not _safe(offer):
            left.append(f"{offer.path!r} (leads out of the folder)")
        else:
            chosen.append(offer)
            room -= offer.size
    return chosen, left


def collect(node: Node, run_id: str, outputs: Outputs, into: Path) -> Collected:
    """Fetch a node's outputs into a folder, those that are not there already. A file is complete or not there.

    Raises ConnectionLost, NodeProgramError, or OrchError if this machine cannot write them.
    """
    call = node.call("collect", {"run_id": run_id})
    try:
        offers = [Offer(*entry) for entry in call.answer(OFFERED, SILENCE, 64)["files"]]
        chosen, left = choose(offers, outputs)
        wanted = [offer.path for offer in chosen if offer.target is None and not _there(offer, into)]
        call.channel.write(wire.json_frame({"paths": wanted}))
        into.mkdir(parents=True, exist_ok=True)
        size = _receive(call, {offer.path: offer for offer in chosen}, into)
        for offer in chosen:
            if offer.target is not None:
                link = into / offer.path
                link.parent.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)
                link.symlink_to(offer.target)
        return Collected(len(chosen), size, tuple(left))
    except OSError as error:
        raise errors.OrchError(
            f"cannot write {error.filename or into}: {error.strerror}",
            remedy="make room; the outputs are still on the node",
            host=node.name,
        ) from None
    finally:
        call.channel.close()


def _receive(call: Call, offers: dict[str, Offer], into: Path) -> int:
    """Write the files that arrive; returns their bytes."""
    total = 0
    frames = call.frames(SILENCE)
    for _, payload in frames:
        about = json.loads(payload)
        if about.get("done"):
            return total
        offer = offers[about["path"]]
        there = into / offer.path
        there.parent.mkdir(parents=True, exist_ok=True)
        partial = there.with_name(there.name + ".part")
        left = about["size"]
        with partial.open("wb") as file:
            while left:
                _, piece = next(frames)
                file.write(piece)
                left -= len(piece)
        partial.chmod(about["mode"] | 0o600)
        os.utime(partial, ns=(offer.mtime_ns, offer.mtime_ns))
        partial.replace(there)
        total += about["size"]
    raise call.ended()


def _there(offer: Offer, folder: Path) -> bool:
    """Whether an earlier collection fetched this very version."""
    try:
        status = (folder / offer.path).lstat()
    except OSError:
        return False
    return (status.st_size, status.st_mtime_ns) == (offer.size, offer.mtime_ns)


def _safe(offer: Offer) -> bool:
    """Whether a node's path, and a link's target, stay within the folder."""
    path = PurePosixPath(offer.path)
    if path.is_absolute() or ".." in path.parts:
        return False
    if offer.target is None:
        return True
    return not offer.target.startswith("/") and not os.path.normpath(path.parent / offer.target).startswith("..")
