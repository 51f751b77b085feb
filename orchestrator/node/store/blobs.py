"""The contents of synced files, one for each content and mode: ``<workdir>/.orch/blobs/<aa>/<sha256>-<mode>``.

Trees are made of hard links to them. A blob's modification time is always ``STAMP``: one that has another was
written to through a tree, and is not used again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import queue
import threading

from ...protocol import frames
from ...protocol.refusal import Refused
from ..host import atomic, flock, paths

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

# 2000-01-01: before any edit, and after 1980, which zip archives begin with.
STAMP = 946684800
PIECE = 1024 * 1024
# How many frames are read ahead, and fcntl's name for a pipe's size (Python has it from 3.10 on).
AHEAD, F_SETPIPE_SZ = 8, 1031


class Blobs:
    """The blobs of one workdir."""

    def __init__(self, workdir: str) -> None:
        self.home = paths.own_dir(workdir)
        self.folder = os.path.join(self.home, "blobs")

    def path(self, sha: str, mode: int) -> str:
        """Where a blob is, or would be."""
        return os.path.join(self.folder, sha[:2], "%s-%o" % (sha, mode))

    def has(self, sha: str, mode: int, size: int) -> bool:
        """Whether a blob is here, as it was stored."""
        try:
            status = os.lstat(self.path(sha, mode))
        except OSError:
            return False
        return status.st_size == size and int(status.st_mtime) == STAMP

    def receive(self, sha: str, mode: int, size: int, incoming: Incoming) -> None:
        """Take a blob's bytes from a stream; raises Refused if they are not what they should be."""
        target = self.path(sha, mode)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        partial = os.path.join(self.folder, atomic.partial_name())
        try:
            with open(partial, "xb", buffering=0) as file:
                digest = incoming.copy(size, file)
            if digest != sha:
                raise Refused("it arrived damaged, or changed while it was sent", "damaged")
            os.chmod(partial, mode)
            os.utime(partial, (STAMP, STAMP))
            os.rename(partial, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise

    def link(self, sha: str, mode: int, target: str) -> None:
        """Put a blob in a tree; a copy where the file system has no hard links."""
        source = self.path(sha, mode)
        try:
            os.link(source, target)
        except FileExistsError:
            raise Refused("two names are one here: the file system ignores case", "path") from None
        except OSError:
            with open(source, "rb") as file, open(target, "xb") as copy:
                while True:
                    piece = file.read(PIECE)
                    if not piece:
                        break
                    copy.write(piece)
            os.chmod(target, mode)
            os.utime(target, (STAMP, STAMP))

    @contextlib.contextmanager
    def held(self, alone: bool = False) -> Iterator[None]:
        """Keep others from removing blobs; ``alone``: from adding any, too. Raises Refused if they do just now."""
        paths.private(self.home)
        os.makedirs(self.folder, exist_ok=True)
        lock = flock.held(
            os.path.join(self.home, "lock"), (fcntl.LOCK_EX | fcntl.LOCK_NB) if alone else fcntl.LOCK_SH
        )
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock)
            except BlockingIOError:
                raise Refused("something is being synced there at this moment", "broken") from None
            yield


class Incoming:
    """The data frames of stdin as one run of bytes, read ahead: writing a file takes longer than its way here.

    A few buffers serve all frames: fresh ones cost more than the bytes in them.
    """

    def __init__(self) -> None:
        self.held: memoryview | None = None
        self.rest = memoryview(b"")
        self.free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        # Buffers, each with the bytes of its frame; None at the end.
        self.full: queue.SimpleQueue[tuple[memoryview, int | None]] = queue.SimpleQueue()
        for _ in range(AHEAD):
            self.free.put(memoryview(bytearray(frames.CHUNK)))
        # A pipe of the usual 64 KiB is full before the other side has been woken.
        with contextlib.suppress(OSError):
            fcntl.fcntl(0, F_SETPIPE_SZ, PIECE)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        """Fill buffers until stdin ends; that, or an end within a frame, is told by a length of None."""
        length: int | None = 0
        while length is not None:
            space = self.free.get()
            try:
                space, length = self.filled(space)
            except (frames.WireError, OSError):
                length = None
            self.full.put((space, length))

    def filled(self, space: memoryview) -> tuple[memoryview, int | None]:
        """A buffer with the next frame, and the frame's length; None at the end."""
        head = frames.read_exactly(0, frames.HEAD.size)
        if not head:
            return space, None
        length = frames.HEAD.unpack(head)[1]
        if length > len(space):
            space = memoryview(bytearray(length))
        at = 0
        while at < length:
            size = os.readv(0, [space[at:length]])
            if not size:
                return space, None
            at += size
        return space, length

    def next(self) -> None:
        """Take the next frame up; raises Refused if there is none."""
        if self.held is not None:
            self.free.put(self.held)
        self.held, length = self.full.get()
        if length is None:
            raise Refused("the transfer broke off", "broken")
        self.rest = self.held[:length]

    def copy(self, size: int, file: BinaryIO) -> str:
        """Copy the next ``size`` bytes to ``file``; returns their SHA-256. Refused if they end early."""
        digest = hashlib.sha256()
        while size:
            if not self.rest:
                self.next()
            piece, self.rest = self.rest[:size], self.rest[size:]
            digest.update(piece)
            write_whole(file, piece)
            size -= len(piece)
        return digest.hexdigest()


def write_whole(file: BinaryIO, piece: memoryview) -> None:
    """Write all of a piece to an unbuffered file, which may take less at a time."""
    while piece:
        piece = piece[file.write(piece) :]
