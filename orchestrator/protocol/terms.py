"""Shapes that several messages share."""

from __future__ import annotations

from .shapes import many, maybe, number, row, text, whole, word

RUN_ID = word(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# A host's name in the inventory.
NAME = word(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
TREE_ID = word(r"[0-9a-f]{32}")
# SHA-256 in hexadecimal digits.
SHA = word(r"[0-9a-f]{64}")
TOKEN = word(r"[0-9a-f]{16}")
NONCE = word(r"[0-9a-f]{1,64}")
DISK_ID = word(r"[A-Za-z0-9]{1,64}")
ADDRESS = word(r"[0-9A-Fa-f:.%A-Za-z0-9_-]{1,80}")
PORT = whole(1, 65535)
BYTES = whole(0, 1 << 60)
# A point in time in seconds since the epoch, and a duration in seconds.
TIME = number(0, 1e11)
SECONDS = number(0, 1e7)
PATH = text(8192)
PATHS = many(PATH, 10_000_000)
RANK = whole(0, 10_000_000)
LOCAL_RANK = whole(0, 65535)
NODE_RANK = whole(0, 100_000)
ATTEMPT = whole(1, 1_000_000)
RESTART = whole(0, 1_000_000)
PID = whole()
EXIT_CODE = maybe(whole(-1024, 1024))
WORDS = many(text(), 4096)
# An interface's name goes into files and commands, so these are the names that Linux allows (dev_valid_name)
# without the characters that a shell interprets.
INTERFACE = word(r"[A-Za-z0-9_.@:+=-]{0,40}")
# Rows of interface, address or network, and prefix length in bits.
ADDRESSES = many(row(INTERFACE, ADDRESS, whole(0, 128)), 4096)
