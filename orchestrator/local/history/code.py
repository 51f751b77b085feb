"""The code that runs ran, kept below the runs folder, so that runs can be compared and repeated.

``.code/<tree id>.json`` lists a tree's entries, and ``.code/blobs/<sha256>`` holds each file's bytes once, however
many runs had it. Files of more than ``LARGEST`` bytes are listed, and not kept.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from orchestrator.core.transfer.local_tree import Entry, LocalTree, hash_file
from orchestrator.errors import SyncError, UsageError
from orchestrator.local.history.runs import write_whole

LARGEST = 16 * 2**20


class CodeStore:
    """The code of the runs of one runs folder."""

    def __init__(self, base: Path) -> None:
        self.folder = base / ".code"
        self.blobs = self.folder / "blobs"

    def keep(self, tree: LocalTree) -> None:
        """Keep a tree that is not kept yet. Raises OSError."""
        listing = self.folder / f"{tree.tree_id}.json"
        if listing.exists():
            return
        # Files of a project may be for its owner's eyes only.
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.blobs.mkdir(exist_ok=True)
        for entry in tree.entries:
            blob = self.blobs / entry.about
            if entry.kind == "file" and entry.size <= LARGEST and not blob.exists():
                beside = blob.with_name(f"{blob.name}.{os.getpid()}")
                shutil.copyfile(tree.root / entry.path, beside)
                beside.replace(blob)
        write_whole(listing, json.dumps([entry.row for entry in tree.entries]))

    def entries(self, tree_id: str) -> dict[str, Entry] | None:
        """Return the entries of a tree by path; None if it was not kept."""
        try:
            rows = json.loads((self.folder / f"{tree_id}.json").read_text())
            return {row[0]: Entry(*row) for row in rows}
        except (OSError, ValueError, TypeError):
            return None

    def read(self, entry: Entry) -> bytes | None:
        """Return the bytes of a file; None if they were not kept."""
        try:
            return (self.blobs / entry.about).read_bytes()
        except OSError:
            return None

    def restored(self, tree_id: str, root: Path) -> Path:
        """Return a folder with a tree's files. Large ones come from ``root``, the project itself.

        Raises UsageError if a file is neither kept nor unchanged in ``root``.
        """
        entries = self.entries(tree_id)
        if entries is None:
            raise UsageError("the code of this run was not kept", remedy="start it by its command: orch runs show")
        place = self.folder / "trees" / tree_id
        if place.exists():
            return place
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=place.parent, prefix=".part-"))
        try:
            for entry in entries.values():
                self._restore(entry, beside, root)
            beside.replace(place)
        except OSError as error:
            raise UsageError(f"cannot write {place}: {error.strerror}") from None
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return place

    def _restore(self, entry: Entry, place: Path, root: Path) -> None:
        path = place / entry.path
        if entry.kind == "dir":
            path.mkdir(parents=True, exist_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        if entry.kind == "link":
            path.symlink_to(entry.about)
            return
        blob = self.blobs / entry.about
        source = blob if blob.exists() else root / entry.path
        if source is not blob and not _is(source, entry):
            raise UsageError(
                f"{entry.path} of this run was not kept, being larger than {LARGEST >> 20} MB, and has changed",
                remedy=f"put the file as it was into {root}",
            )
        shutil.copyfile(source, path)
        path.chmod(entry.mode)

    def forget(self, used: Collection[str]) -> None:
        """Remove the code of trees that are not among ``used``."""
        if not self.folder.is_dir():
            return
        needed = set()
        for listing in self.folder.glob("*.json"):
            if listing.stem in used:
                needed |= {entry.about for entry in (self.entries(listing.stem) or {}).values()}
            else:
                shutil.rmtree(self.folder / "trees" / listing.stem, ignore_errors=True)
                listing.unlink(missing_ok=True)
        with suppress(OSError):
            for blob in list(os.scandir(self.blobs)):
                if blob.name.partition(".")[0] not in needed:
                    Path(blob.path).unlink(missing_ok=True)


def _is(path: Path, entry: Entry) -> bool:
    """Return whether a file has the bytes of an entry."""
    try:
        return path.is_file() and hash_file(path).entries[0].about == entry.about
    except SyncError:
        return False
