"""TensorBoard's event files: scalars, read without TensorBoard or TensorFlow.

An event file is a row of records: the length (8 bytes, little-endian), its masked CRC-32C, the data, and theirs
(tensorflow/core/lib/io/record_writer.h). The data are a message ``Event`` (tensorflow/core/util/event.proto).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import BinaryIO

from orchestrator.core.metrics.series import Gathered

# A larger record holds pictures or graphs, and no scalar.
LARGEST = 1 << 20
HEADER = struct.Struct("<QI")
# Wire types of protocol buffers.
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
FLOAT, DOUBLE, INT32, INT64 = 1, 2, 3, 9
FORMATS = {FLOAT: "<f", DOUBLE: "<d", INT32: "<i", INT64: "<q"}
Field = tuple[int, int, "int | bytes"]


class Damaged(ValueError):
    """Bytes that are no message."""


def add_events(found: Gathered, file: BinaryIO) -> None:
    """Add the scalars of an event file. What follows a damaged or unfinished record is not read."""
    for data in records(file):
        try:
            _add_event(found, data)
        except (Damaged, struct.error, UnicodeDecodeError):
            continue


def records(file: BinaryIO) -> Iterator[bytes]:
    """Yield the data of the records of at most ``LARGEST`` bytes, up to the first that is damaged or not whole."""
    while len(header := file.read(HEADER.size)) == HEADER.size:
        length, crc = HEADER.unpack(header)
        if masked_crc(header[:8]) != crc:
            return
        if length > LARGEST:
            file.seek(length + 4, 1)
            continue
        data = file.read(length + 4)
        if len(data) < length + 4:
            return
        yield data[:length]


def _add_event(found: Gathered, data: bytes) -> None:
    step, time, summaries = 0, None, []
    for number, kind, value in fields(data):
        if number == 1 and kind == FIXED64:
            time = struct.unpack("<d", _bytes(value))[0]
        elif number == 2 and kind == VARINT:
            step = int(value)
        elif number == 5 and kind == BYTES:
            summaries.append(_bytes(value))
    for summary in summaries:
        for number, kind, value in fields(summary):
            if number == 1 and kind == BYTES:
                _add_scalar(found, _bytes(value), float(step), time)


def _add_scalar(found: Gathered, data: bytes, step: float, time: float | None) -> None:
    name, scalar = None, None
    for number, kind, value in fields(data):
        if number == 1 and kind == BYTES:
            name = _bytes(value).decode()
        elif number == 2 and kind == FIXED32:
            scalar = struct.unpack("<f", _bytes(value))[0]
        elif number == 8 and kind == BYTES:
            scalar = _tensor(_bytes(value))
    if name and scalar is not None:
        found.add(name, step, scalar, time)


def _tensor(data: bytes) -> float | None:
    """Return the number in a tensor with one number (tensorflow/core/framework/tensor.proto), as TF 2 writes."""
    dtype, content, sizes = 0, b"", []
    for number, kind, value in fields(data):
        if number == 1 and kind == VARINT:
            dtype = int(value)
        elif number == 2 and kind == BYTES:
            sizes = [
                next((int(size) for at, _, size in fields(_bytes(dim)) if at == 1), 0)
                for at, _, dim in fields(_bytes(value))
                if at == 2
            ]
        elif number == 4 and kind == BYTES:
            content = _bytes(value)
        elif number in (5, 6) and kind in (BYTES, FIXED32, FIXED64):
            # Packed numbers, or a single one.
            content = _bytes(value)
        elif number in (7, 10) and kind in (VARINT, BYTES):
            return float(int(value) if kind == VARINT else _varint(_bytes(value), 0)[0])
    form = FORMATS.get(dtype)
    if form is None or math.prod(sizes) != 1 or len(content) != struct.calcsize(form):
        return None
    return float(struct.unpack(form, content)[0])


def fields(data: bytes) -> Iterator[Field]:
    """Yield the fields of a message: number, wire type, and an int (VARINT) or bytes. Raises Damaged."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == VARINT:
            value, at = _varint(data, at)
            yield key >> 3, kind, value
            continue
        if kind == BYTES:
            size, at = _varint(data, at)
        elif kind in (FIXED64, FIXED32):
            size = 8 if kind == FIXED64 else 4
        else:
            raise Damaged(f"wire type {kind}")
        if at + size > len(data):
            raise Damaged("the field ends after the message")
        yield key >> 3, kind, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            # Negative numbers are written in two's complement.
            return (value - (1 << 64) if value >= 1 << 63 else value), at
    raise Damaged("a number has no end")


def _bytes(value: int | bytes) -> bytes:
    assert isinstance(value, bytes)
    return value


def _table() -> tuple[int, ...]:
    made = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        made.append(number)
    return tuple(made)


CRC_TABLE = _table()


def masked_crc(data: bytes) -> int:
    """Return the CRC-32C (RFC 3720, B.4) of some bytes, masked as in tensorflow/core/lib/hash/crc32c.h."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
