"""Frames between the control machine and a node program: ``kind`` (1 byte), ``length`` (4 bytes), payload.

Kinds: ``J`` a JSON object, ``D`` raw bytes that belong to the JSON before them, ``L`` a piece of a log
(stream id, byte offset, bytes). The node's first bytes are a preamble with the nonce of the request, so
that whatever a login shell printed before it can be told apart and reported.
"""

import json
import os
import struct

HEAD = struct.Struct(">cI")
LOG_HEAD = struct.Struct(">HQ")
JSON, DATA, LOG = b"J", b"D", b"L"
MAX_FRAME = 64 * 1024 * 1024
CHUNK = 256 * 1024
# The control side takes in less of what nodes send: lists are deflated, files and logs come in chunks.
MOST_OF_NODES, MOST_OF_LOGS = 16 * 1024 * 1024, 4 * CHUNK
# A login shell that prints more than this before the node program speaks is not waited for, in bytes.
MOST_NOISE = 1024 * 1024


class WireError(Exception):
    """The bytes are not frames, or end within one."""


def preamble(nonce):
    """The bytes that a node writes before its first frame."""
    return b"\0orch:" + nonce.encode("ascii") + b"\0"


def stream_name(local_rank, restart, stream):
    """How a worker's stream is called in frames: ``0.stdout``, once torchrun started it again ``0.1.stdout``."""
    return "%d.%d.%s" % (local_rank, restart, stream) if restart else "%d.%s" % (local_rank, stream)


def json_frame(value):
    """The frame of a JSON object."""
    payload = json.dumps(value, separators=(",", ":")).encode("ascii")
    return HEAD.pack(JSON, len(payload)) + payload


def data_frame(data):
    """The frame of raw bytes."""
    return HEAD.pack(DATA, len(data)) + data


def log_frame(stream_id, offset, data):
    """The frame of a piece of a log: ``data`` stands at byte ``offset`` of stream ``stream_id``."""
    return HEAD.pack(LOG, LOG_HEAD.size + len(data)) + LOG_HEAD.pack(stream_id, offset) + data


class Splitter:
    """Bytes of a node in any pieces -> whole frames. With a ``nonce``, all before its preamble is ``noise``."""

    def __init__(self, nonce=None):
        self._buffer = bytearray()
        self._preamble = preamble(nonce) if nonce else None
        self.noise = b""

    @property
    def started(self):
        """Whether the preamble has been seen."""
        return self._preamble is None

    @property
    def pending(self):
        """How many bytes wait for the rest of their frame."""
        return len(self._buffer)

    def feed(self, data):
        """Return the frames completed by ``data``, as ``(kind, payload)``; raises WireError."""
        buffer = self._buffer
        buffer += data
        if self._preamble is not None:
            start = buffer.find(self._preamble)
            self.noise = bytes(buffer[: start if start >= 0 else None][:4096])
            if start < 0:
                if len(buffer) > MOST_NOISE:
                    raise WireError("%d bytes and no answer: %r" % (len(buffer), self.noise[:60]))
                return []
            del buffer[: start + len(self._preamble)]
            self._preamble = None
        frames = []
        at = 0
        while len(buffer) - at >= HEAD.size:
            kind, length = HEAD.unpack_from(buffer, at)
            if kind not in (JSON, DATA, LOG) or length > (MOST_OF_LOGS if kind == LOG else MOST_OF_NODES):
                raise WireError("not a frame: %r" % bytes(buffer[at : at + 32]))
            end = at + HEAD.size + length
            if len(buffer) < end:
                break
            frames.append((kind, bytes(buffer[at + HEAD.size : end])))
            at = end
        if at:
            del buffer[:at]
        return frames


def read_exactly(fd, size):
    """``size`` bytes from a file descriptor, or b"" at a clean end; raises WireError at an unclean one."""
    parts = []
    missing = size
    while missing:
        part = os.read(fd, min(missing, 1024 * 1024))
        if not part:
            if missing == size:
                return b""
            raise WireError("the connection ended within a frame")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def read_frame(fd):
    """The next ``(kind, payload)`` from a file descriptor, or None at its end."""
    head = read_exactly(fd, HEAD.size)
    if not head:
        return None
    kind, length = HEAD.unpack(head)
    if kind not in (JSON, DATA, LOG) or length > MAX_FRAME:
        raise WireError("not a frame: %r" % head)
    return kind, read_exactly(fd, length)


def write_all(fd, data):
    """Write every byte of ``data``; raises OSError (BrokenPipeError) when the other side has gone."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
