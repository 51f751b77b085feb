"""Data files in transit: a target is complete or absent, and a later transfer continues a partial file.

The partial file is ``.orch-<code>-<host>.part`` beside the target. Only this user can compute the code, because
other users may be allowed to write to the folder.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import json
import os
import secrets
import stat

from ...protocol.refusal import Refused
from ..host import atomic, paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from ...protocol.tree import Row

    class Digest(Protocol):
        """A hash object of hashlib."""

        def update(self, __data: bytes | memoryview) -> None:
            """Add bytes."""

        def hexdigest(self) -> str:
            """Return the hash of the bytes added so far."""


class Part:
    """One file in transit. ``have``: number of its bytes that have been received."""

    def __init__(self, root: str, entry: Row, records: Records) -> None:
        self.path, _, self.mode, self.size, self.sha = entry
        self.target = os.path.join(root, self.path)
        folder = os.path.dirname(self.target)
        if os.path.realpath(folder) != root and not os.path.realpath(folder).startswith(root.rstrip("/") + "/"):
            raise Refused("%r leads out of %s through a link" % (self.path, root), "path")
        # The host's name is included because hosts that share the folder may write to it at the same time.
        code = part_code(self.target, self.sha)
        self.partial = os.path.join(folder, ".orch-%s-%s.part" % (code, paths.hostname()))
        self.records = records
        self.have = 0
        self.digest = hashlib.sha256()
        self.file: int | None = None

    def whole(self) -> bool:
        """Return whether the target exists with the expected size and hash."""
        try:
            status = os.lstat(self.target)
        except OSError:
            status = None
        if status is not None and os.path.isfile(self.target) and status.st_size == self.size:
            known = self.records.sha(self.path, status)
            if known is None:
                known = file_hash(self.target, hashlib.sha256()).hexdigest()
            if known == self.sha:
                self.records.note(self.path, status, known)
                return True
        return False

    def complete(self) -> bool:
        """Return whether the file is complete; put a finished part in place, else set ``have`` from the part."""
        if self.whole():
            return True
        if os.path.lexists(self.partial):
            file = self.open()
            self.have = min(os.fstat(file).st_size, self.size)
            digest_of(file, self.digest, self.have)
            self.close()
        return self.finish() if self.have == self.size else False

    def open(self) -> int:
        """Open or create the partial file; raises Refused if it is not a regular file of this user alone."""
        if self.file is not None:
            return self.file
        os.makedirs(os.path.dirname(self.partial), exist_ok=True)
        try:
            file = self.file = os.open(self.partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            raise Refused("%r: its partial file has been replaced by a link" % self.path, "path") from None
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or not paths.is_ours(status, self.partial):
            self.close()
            raise Refused("%r: its partial file has been replaced by another file" % self.path, "path")
        return file

    def write(self, position: int, piece: bytes | memoryview) -> None:
        """Write ``piece``, which begins at byte ``position`` of the file, except for bytes already received."""
        piece = piece[max(0, self.have - position) :]
        if not piece:
            return
        file = self.open()
        end = self.have + len(piece)
        while self.have < end:
            self.have += os.pwrite(file, piece[len(piece) - (end - self.have) :], self.have)
        # Hash the bytes that are in the file, because they may differ from those that were sent.
        self.digest.update(os.pread(file, len(piece), end - len(piece)))

    def finish(self) -> bool:
        """Put the file in place and return True; if size or hash is wrong, delete the part and return False."""
        file = self.open()
        size = os.fstat(file).st_size
        if self.have != self.size or size != self.size or self.digest.hexdigest() != self.sha:
            self.close()
            os.unlink(self.partial)
            self.have, self.digest = 0, hashlib.sha256()
            return False
        os.fchmod(file, self.mode)
        self.close()
        os.rename(self.partial, self.target)
        self.records.note(self.path, os.lstat(self.target), self.sha)
        return True

    def close(self) -> None:
        """Close the partial file, keeping its contents."""
        if self.file is not None:
            os.close(self.file)
            self.file = None


def part_code(target: str, sha: str) -> str:
    """Return the code in a part's name: the same for every transfer of a file, and known only to this user."""
    return hmac.new(secret(), os.fsencode(target) + b"\0" + sha.encode("ascii"), "sha256").hexdigest()[:24]


def secret() -> bytes:
    """Return this user's 32 secret bytes on this host, creating them at the first call."""
    path = os.path.join(paths.state_dir(), "secret")
    if not os.path.exists(path):
        os.makedirs(paths.state_dir(), mode=0o700, exist_ok=True)
        with atomic.written_bytes(path) as file:
            file.write(secrets.token_bytes(32))
    with open(path, "rb") as file:
        return file.read()


class Records:
    """Known hashes of files below a root, each valid while the file's size and modification time stay the same."""

    def __init__(self, workdir: str, root: str) -> None:
        folder = os.path.join(paths.own_dir(workdir), "data")
        self.path = os.path.join(folder, hashlib.sha256(os.fsencode(root)).hexdigest()[:24] + ".json")
        try:
            with open(self.path) as file:
                self.known: dict[str, list[Any]] = json.load(file)
        except (OSError, ValueError):
            self.known = {}

    def sha(self, path: str, status: os.stat_result) -> str | None:
        """Return the hash recorded for ``path`` if ``status`` matches the record, else None."""
        known = self.known.get(path)
        return known[2] if known and known[:2] == [status.st_size, status.st_mtime_ns] else None

    def note(self, path: str, status: os.stat_result, sha: str) -> None:
        """Record the hash of ``path``."""
        self.known[path] = [status.st_size, status.st_mtime_ns, sha]

    def save(self) -> None:
        """Write the records to disk."""
        # Records that cannot be written cost only time: the files are hashed again.
        with contextlib.suppress(OSError):
            paths.private(os.path.dirname(os.path.dirname(self.path)))
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            with atomic.written(self.path) as file:
                json.dump(self.known, file)


def file_hash(path: str, digest: Digest) -> Digest:
    """Add a file's bytes to ``digest`` and return it."""
    with open(path, "rb") as file:
        while True:
            piece = file.read(1024 * 1024)
            if not piece:
                return digest
            digest.update(piece)


def digest_of(handle: int, digest: Digest, size: int) -> None:
    """Add the first ``size`` bytes of an open file to ``digest``."""
    at = 0
    while at < size:
        piece = os.pread(handle, min(1024 * 1024, size - at), at)
        if not piece:
            return
        digest.update(piece)
        at += len(piece)
