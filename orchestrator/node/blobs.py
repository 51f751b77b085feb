"""The contents of synced files, one for each content and mode: ``<workdir>/.orch/blobs/<aa>/<sha256>-<mode>``.

Trees are made of hard links to them. A blob's modification time is always ``STAMP``: one that has another was
written to through a tree, and is not used again.
"""

import contextlib
import fcntl
import hashlib
import os
import uuid

from . import paths, wire
from .refusal import Refused

# 2000-01-01: before any edit, and after 1980, which zip archives begin with.
STAMP = 946684800
PIECE = 1024 * 1024


class Blobs:
    """The blobs of one workdir."""

    def __init__(self, workdir):
        self.home = paths.own_dir(workdir)
        self.folder = os.path.join(self.home, "blobs")

    def path(self, sha, mode):
        """Where a blob is, or would be."""
        return os.path.join(self.folder, sha[:2], "%s-%o" % (sha, mode))

    def has(self, sha, mode, size):
        """Whether a blob is here, as it was stored."""
        try:
            status = os.lstat(self.path(sha, mode))
        except OSError:
            return False
        return status.st_size == size and int(status.st_mtime) == STAMP

    def receive(self, sha, mode, size, incoming):
        """Take a blob's bytes from a stream; raises Refused if they are not what they should be."""
        target = self.path(sha, mode)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        partial = os.path.join(self.folder, partial_name())
        try:
            with open(partial, "xb") as file:
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

    def link(self, sha, mode, target):
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
    def held(self, alone=False):
        """Keep others from removing blobs; ``alone``: from adding any, too. Raises Refused if they do just now."""
        os.makedirs(self.folder, exist_ok=True)
        with open(os.path.join(self.home, "lock"), "a") as file:
            try:
                fcntl.flock(file, (fcntl.LOCK_EX | fcntl.LOCK_NB) if alone else fcntl.LOCK_SH)
            except BlockingIOError:
                raise Refused("something is being synced there at this moment", "broken") from None
            yield


class Incoming:
    """The data frames of stdin as one run of bytes."""

    def __init__(self):
        self.buffer = memoryview(b"")

    def copy(self, size, file):
        """Copy the next ``size`` bytes to ``file``; returns their SHA-256. Refused if they end early."""
        digest = hashlib.sha256()
        while size:
            if not self.buffer:
                frame = wire.read_frame(0)
                if frame is None:
                    raise Refused("the transfer broke off", "broken")
                self.buffer = memoryview(frame[1])
            piece, self.buffer = self.buffer[:size], self.buffer[size:]
            digest.update(piece)
            file.write(piece)
            size -= len(piece)
        return digest.hexdigest()


@contextlib.contextmanager
def written(path):
    """A text file that is there whole, or as it was before."""
    partial = os.path.join(os.path.dirname(path), partial_name())
    try:
        with open(partial, "x") as file:
            yield file
        os.rename(partial, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(partial)


def partial_name():
    """A name for what is not complete yet, which tells whose it is."""
    return ".part-%s@%d-%s-%s" % (paths.hostname(), os.getpid(), started(os.getpid()), uuid.uuid4().hex[:8])


def abandoned(name):
    """Whether a name is of something incomplete whose maker, a process of this host, is no more."""
    # No host name has an "@": that of gpu-1 is not taken for a process of gpu.
    mine = ".part-%s@" % paths.hostname()
    if not name.startswith(mine):
        return False
    pid, start = name[len(mine) :].split("-")[:2]
    return started(int(pid)) != start


def started(pid):
    """When a process started, in ticks since the machine did (proc_pid_stat(5)); empty if there is none."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode("ascii")
    except (OSError, IndexError):
        return ""
