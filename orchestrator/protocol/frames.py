"""Frames between the control machine and a node program: kind (1 byte), length of the payload (4 bytes), payload.

Kinds: ``J`` a JSON object, ``D`` raw bytes that belong to the JSON object before them, ``L`` a piece of a log
(stream id, byte offset, bytes). Numbers are big-endian. The node's first bytes are a preamble with the nonce of
the request; the login shell printed what comes before it, which can be reported as such.
"""

from __future__ import annotations

import json
import os
import struct

from .shapes import MOST, decoded, inflated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TypeVar

    from .message import Message

    M = TypeVar("M", bound=Message)
    # Kind and payload.
    Frame = tuple[bytes, bytes]

# Kind and payload length. A log frame begins with stream id and byte offset.
HEAD = struct.Struct(">cI")
LOG_HEAD = struct.Struct(">HQ")
JSON, DATA, LOG = b"J", b"D", b"L"
# Largest payload of a frame, and the usual piece of a file or log, in bytes.
MAX_FRAME = 64 * 1024 * 1024
CHUNK = 256 * 1024
# Largest payloads that the control side accepts from nodes, in bytes: lists are deflated, and files and logs come
# in chunks, so frames of nodes are smaller than ``MAX_FRAME``.
MOST_OF_NODES, MOST_OF_LOGS = 16 * 1024 * 1024, 4 * CHUNK
# Most bytes that a login shell may print before the preamble.
MOST_NOISE = 1024 * 1024


class WireError(Exception):
    """The bytes are not frames, or end in the middle of a frame."""


def preamble(nonce: str) -> bytes:
    """Return the bytes that a node writes before its first frame."""
    return b"\0orch:" + nonce.encode("ascii") + b"\0"


def stream_name(local_rank: int, restart: int, stream: str) -> str:
    """Return the name of a worker's stream in frames: ``0.stdout``, or ``0.1.stdout`` after one restart."""
    return "%d.%d.%s" % (local_rank, restart, stream) if restart else "%d.%s" % (local_rank, stream)


def json_frame(value: object) -> bytes:
    """Return the frame of a JSON object."""
    payload = json.dumps(value, separators=(",", ":")).encode("ascii")
    return HEAD.pack(JSON, len(payload)) + payload


def message_frame(message: Message) -> bytes:
    """Return the frame of a message."""
    return json_frame(message.to_wire())


def data_frame(data: bytes) -> bytes:
    """Return the frame of raw bytes."""
    return HEAD.pack(DATA, len(data)) + data


def log_frame(stream_id: int, offset: int, data: bytes) -> bytes:
    """Return the frame of a piece of a log: ``data`` begins at byte ``offset`` of stream ``stream_id``."""
    return HEAD.pack(LOG, LOG_HEAD.size + len(data)) + LOG_HEAD.pack(stream_id, offset) + data


class Splitter:
    """Split the bytes of a node, which arrive in pieces of any size, into frames.

    With a ``nonce``, everything before the preamble of that nonce is skipped; ``noise`` keeps up to 4096 bytes of
    it.
    """

    def __init__(self, nonce: str | None = None) -> None:
        self._buffer = bytearray()
        self._preamble = preamble(nonce) if nonce else None
        self.noise = b""

    @property
    def started(self) -> bool:
        """Whether the preamble has arrived; true from the beginning without a nonce."""
        return self._preamble is None

    @property
    def pending(self) -> int:
        """Number of bytes that wait for the rest of their frame."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that ``data`` completes, as ``(kind, payload)``; raises WireError."""
        buffer = self._buffer
        buffer += data
        if self._preamble is not None:
            start = buffer.find(self._preamble)
            self.noise = bytes(buffer[: start if start >= 0 else None][:4096])
            if start < 0:
                if len(buffer) > MOST_NOISE:
                    raise WireError("%d bytes without a preamble: %r" % (len(buffer), self.noise[:60]))
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


def read_exactly(fd: int, size: int) -> bytes:
    """Read ``size`` bytes from a file descriptor; return b"" if the input ends before the first of them.

    Raises WireError if the input ends later.
    """
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


def read_frame(fd: int) -> Frame | None:
    """Read the next ``(kind, payload)`` from a file descriptor; return None at the end of the input.

    Raises WireError.
    """
    head = read_exactly(fd, HEAD.size)
    if not head:
        return None
    kind, length = HEAD.unpack(head)
    if kind not in (JSON, DATA, LOG) or length > MAX_FRAME:
        raise WireError("not a frame: %r" % head)
    payload = read_exactly(fd, length)
    if len(payload) < length:
        raise WireError("the connection ended within a frame")
    return kind, payload


def write_all(fd: int, data: bytes) -> None:
    """Write every byte of ``data``; raises OSError (BrokenPipeError) if the other side has gone."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def send(fd: int, message: Message) -> None:
    """Write a message; raises OSError (BrokenPipeError) if the other side has gone."""
    write_all(fd, message_frame(message))


def receive(fd: int, kind: type[M], deflated: bool = False) -> M | None:
    """Read the next frame as a message of class ``kind``; return None at the end of the input.

    ``deflated``: the message is zlib data in a data frame. Raises WireError if the bytes are not a frame,
    Misshapen if the frame is not such a message.
    """
    frame = read_frame(fd)
    if frame is None:
        return None
    payload = inflated(frame[1], MAX_FRAME * 16) if deflated else frame[1]
    return kind.from_wire(decoded(payload, MAX_FRAME * 16, MOST))
