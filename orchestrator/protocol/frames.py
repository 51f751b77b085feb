"""Frames between the control machine and a node program: ``kind`` (1 byte), ``length`` (4 bytes), payload.

Kinds: ``J`` a JSON object, ``D`` raw bytes that belong to the JSON before them, ``L`` a piece of a log
(stream id, byte offset, bytes). The node's first bytes are a preamble with the nonce of the request, so
that whatever a login shell printed before it can be told apart and reported.
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


def preamble(nonce: str) -> bytes:
    """The bytes that a node writes before its first frame."""
    return b"\0orch:" + nonce.encode("ascii") + b"\0"


def stream_name(local_rank: int, restart: int, stream: str) -> str:
    """How a worker's stream is called in frames: ``0.stdout``, once torchrun started it again ``0.1.stdout``."""
    return "%d.%d.%s" % (local_rank, restart, stream) if restart else "%d.%s" % (local_rank, stream)


def json_frame(value: object) -> bytes:
    """The frame of a JSON object."""
    payload = json.dumps(value, separators=(",", ":")).encode("ascii")
    return HEAD.pack(JSON, len(payload)) + payload


def message_frame(message: Message) -> bytes:
    """The frame of a message."""
    return json_frame(message.to_wire())


def data_frame(data: bytes) -> bytes:
    """The frame of raw bytes."""
    return HEAD.pack(DATA, len(data)) + data


def log_frame(stream_id: int, offset: int, data: bytes) -> bytes:
    """The frame of a piece of a log: ``data`` stands at byte ``offset`` of stream ``stream_id``."""
    return HEAD.pack(LOG, LOG_HEAD.size + len(data)) + LOG_HEAD.pack(stream_id, offset) + data


class Splitter:
    """Bytes of a node in any pieces -> whole frames. With a ``nonce``, all before its preamble is ``noise``."""

    def __init__(self, nonce: str | None = None) -> None:
        self._buffer = bytearray()
        self._preamble = preamble(nonce) if nonce else None
        self.noise = b""

    @property
    def started(self) -> bool:
        """Whether the preamble has been seen."""
        return self._preamble is None

    @property
    def pending(self) -> int:
        """How many bytes wait for the rest of their frame."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
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


def read_exactly(fd: int, size: int) -> bytes:
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


def read_frame(fd: int) -> Frame | None:
    """The next ``(kind, payload)`` from a file descriptor, or None at its end."""
    head = read_exactly(fd, HEAD.size)
    if not head:
        return None
    kind, length = HEAD.unpack(head)
    if kind not in (JSON, DATA, LOG) or length > MAX_FRAME:
        raise WireError("not a frame: %r" % head)
    return kind, read_exactly(fd, length)


def write_all(fd: int, data: bytes) -> None:
    """Write every byte of ``data``; raises OSError (BrokenPipeError) when the other side has gone."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def send(fd: int, message: Message) -> None:
    """Write a message; raises OSError (BrokenPipeError) when the other side has gone."""
    write_all(fd, message_frame(message))


def receive(fd: int, kind: type[M], deflated: bool = False) -> M | None:
    """Read the next frame, a message of this kind, or None at the end.

    ``deflated``: it comes as a data frame. Raises WireError for no frame, Misshapen for another message.
    """
    frame = read_frame(fd)
    if frame is None:
        return None
    payload = inflated(frame[1], MAX_FRAME * 16) if deflated else frame[1]
    return kind.from_wire(decoded(payload, MAX_FRAME * 16, MOST))
