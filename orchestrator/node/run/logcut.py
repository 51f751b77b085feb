"""Keep a growing log within a limit: its head and its tail stay, the disk behind the rest is given back.

A hole is punched (fallocate(2)), so whoever writes the log notices nothing and no offset changes; who reads it
finds the hole with lseek(2).
"""

from __future__ import annotations

import ctypes
import errno
import os

PUNCH_HOLE, KEEP_SIZE = 2, 1
BLOCK = 64 * 1024
_libc = ctypes.CDLL(None, use_errno=True)


def cut(path: str, limit: int) -> bool:
    """Give back what lies between the first quarter of ``limit`` bytes and the last half; whether there was any.

    Raises OSError where the file system cannot.
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
    """Where the first byte that is kept stands, from ``offset`` on."""
    try:
        found = os.lseek(handle, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return offset
        raise
    return found if found - offset >= BLOCK else offset
