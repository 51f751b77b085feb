"""Blobs: the contents of synced files, one for each content and mode.

A blob is the file ``<workdir>/.orch/blobs/<aa>/<sha256>-<mode>``, and trees are made of hard links to blobs. Every
blob has the modification time ``STAMP``. A blob with any other time was written to through a tree and is not used
again.
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

# Modification time of every blob, 2000-01-01 UTC: earlier than any edit, and later than 1980, the earliest time
# that zip archives can hold.
STAMP = 946684800
# Largest number of bytes to read at once.
PIECE = 1024 * 1024
# Number of frames to read ahead, and the fcntl(2) command that sets a pipe's size (in ``fcntl`` from Python 3.10).
AHEAD, F_SETPIPE_SZ = 8, 1031


class Blobs:
    """The blobs of one workdir."""

    def __init__(self, workdir: str) -> None:
        self.home = paths.own_dir(workdir)
        self.folder = os.path.join(self.home, "blobs")

    def path(self, sha: str, mode: int) -> str:
        """Return the path of a blob, whether it exists or not."""
        return os.path.join(self.folder, sha[:2], "%s-%o" % (sha, mode))

    def has(self, sha: str, mode: int, size: int) -> bool:
        """Return whether the blob exists with this size and has not been modified since it was stored."""
        try:
            status = os.lstat(self.path(sha, mode))
        except OSError:
            return False
        return status.st_size == size and int(status.st_mtime) == STAMP

    def receive(self, sha: str, mode: int, size: int, incoming: Incoming) -> None:
        """Store a blob from ``incoming``; raises Refused if the bytes do not match ``sha`` or end early."""
        target = self.path(sha, mode)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        partial = os.path.join(self.folder, atomic.partial_name())
        try:
            with open(partial, "xb", buffering=0) as file:
                digest = incoming.copy(size, file)
            if digest != sha:
                raise Refused("the file arrived damaged, or changed while it was sent", "damaged")
            os.chmod(partial, mode)
            os.utime(partial, (STAMP, STAMP))
            os.rename(partial, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(partial)
            raise

    def link(self, sha: str, mode: int, target: str) -> None:
        """Link a blob to ``target``, or copy it if a hard link fails; raises Refused if ``target`` exists."""
        source = self.path(sha, mode)
        try:
            os.link(source, target)
        except FileExistsError:
            raise Refused("the name clashes with another: the file system ignores case", "path") from None
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
        """Hold the blob lock, exclusively if ``alone``.

        Adding blobs takes a shared lock, which waits for exclusive ones to be released. Removing blobs takes an
        exclusive lock; raises Refused if another process holds the lock then.
        """
        paths.private(self.home)
        os.makedirs(self.folder, exist_ok=True)
        lock = flock.held(
            os.path.join(self.home, "lock"), (fcntl.LOCK_EX | fcntl.LOCK_NB) if alone else fcntl.LOCK_SH
        )
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock)
            except BlockingIOError:
                raise Refused("another sync or prune of this workdir is in progress", "broken") from None
            yield


class Incoming:
    """The data frames of stdin as one stream of bytes, read ahead by a thread.

    Reading ahead pays because writing a file takes longer than receiving it. A few buffers are reused for all
    frames, because allocating a buffer costs more than filling it.
    """

    def __init__(self) -> None:
        self.held: memoryview | None = None
        self.rest = memoryview(b"")
        self.free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        # Filled buffers, each with the length of its frame in bytes; None at the end of the input.
        self.full: queue.SimpleQueue[tuple[memoryview, int | None]] = queue.SimpleQueue()
        for _ in range(AHEAD):
            self.free.put(memoryview(bytearray(frames.CHUNK)))
        # A pipe of the default 64 KiB fills up before the reader wakes.
        with contextlib.suppress(OSError):
            fcntl.fcntl(0, F_SETPIPE_SZ, PIECE)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self) -> None:
        """Fill buffers until stdin ends or fails, even within a frame; then queue a length of None."""
        length: int | None = 0
        while length is not None:
            space = self.free.get()
            try:
                space, length = self.filled(space)
            except (frames.WireError, OSError):
                length = None
            self.full.put((space, length))

    def filled(self, space: memoryview) -> tuple[memoryview, int | None]:
        """Return a buffer with the next frame's bytes, and their number; None at the end of stdin.

        ``space``: the buffer to fill; a frame that does not fit gets a new one. Raises WireError and OSError.
        """
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
        """Release the current buffer and take the next frame; raises Refused if there is none."""
        if self.held is not None:
            self.free.put(self.held)
        self.held, length = self.full.get()
        if length is None:
            raise Refused("the transfer broke off", "broken")
        self.rest = self.held[:length]

    def copy(self, size: int, file: BinaryIO) -> str:
        """Copy the next ``size`` bytes to ``file`` and return their SHA-256; raises Refused if there are fewer."""
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
    """Write all of ``piece`` to an unbuffered file, which may accept fewer bytes per call."""
    while piece:
        piece = piece[file.write(piece) :]
