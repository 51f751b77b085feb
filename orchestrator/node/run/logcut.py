"""Keep a growing log within a limit: keep its head and tail, and free the disk space of its middle.

fallocate(2) punches a hole into the file, so its writer notices nothing and no offset changes. Readers find the
hole with lseek(2).
"""

from __future__ import annotations

import ctypes
import errno
import os

PUNCH_HOLE, KEEP_SIZE = 2, 1
# Holes begin and end at multiples of this size in bytes.
BLOCK = 64 * 1024
_libc = ctypes.CDLL(None, use_errno=True)


def cut(path: str, limit: int) -> bool:
    """If a file takes more than ``limit`` bytes of disk, free its middle; return whether that was done.

    The first quarter of ``limit`` and the last half of ``limit`` bytes stay. Raises OSError where the file system
    cannot punch holes.
    """
    handle = os.open(path, os.O_WRONLY)
    try:
        status = os.fstat(handle)
        if status.st_blocks * 512 <= limit:
            return False
        first = limit // 4 // BLOCK * BLOCK + BLOCK
        last = (status.st_size - limit // 2) // BLOCK * BLOCK
        if last <= first:
            return False
        size = ctypes.c_int64(last - first)
        if _libc.fallocate(handle, PUNCH_HOLE | KEEP_SIZE, ctypes.c_int64(first), size):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return True
    finally:
        os.close(handle)


def next_data(handle: int, offset: int) -> int:
    """Return the end of a hole of at least ``BLOCK`` bytes at ``offset``; ``offset`` if there is none."""
    try:
        found = os.lseek(handle, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return offset
        raise
    return found if found - offset >= BLOCK else offset
