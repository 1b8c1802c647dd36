"""What the variables of a MATLAB file take in memory, read off the tags of its elements before SciPy allocates them.

A file of version 5 to 7 is a sequence of elements: a type, a length, and data; those of arrays hold others, and may be
packed by zlib. "MAT-File Format" (The MathWorks), chapter 1.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable
from typing import BinaryIO

_MATRIX, _PACKED, _SPARSE = 14, 15, 5
_HEADER, _PIECE, _DEEPEST = 128, 2**16, 32
_COPIES = 4
"""Times that SciPy holds what it reads: bytes, an array of them, a complex one, four bytes a letter."""

Read = Callable[[int], bytes]


def needed(file: BinaryIO, size: int, *, first: bool) -> int:
    """Bytes that reading all variables of an open file takes at the peak.

    Args:
        file: at its start.
        size: its bytes.
        first: whether it is of version 4, which packs nothing.

    Raises:
        ValueError: If an element is longer than what holds it, or an array has more entries than bytes.
    """
    if first:
        return _COPIES * size
    order = "<" if file.read(_HEADER)[126:128] == b"IM" else ">"
    total, at = 0, _HEADER
    while at + 8 <= size:
        kind, length = struct.unpack(f"{order}2I", file.read(8))
        if length > size - at - 8:
            raise ValueError("an element is longer than the file")
        if kind == _PACKED:
            total += _unpacked(file, length, order)
        else:
            total += length
            _check(file.read, kind, length, order)
        at += 8 + length
        file.seek(at)
    return _COPIES * total


def _unpacked(file: BinaryIO, length: int, order: str) -> int:
    """Bytes of an element that is packed."""
    read = _unpacking(file, length)
    kind, inside = struct.unpack(f"{order}2I", read(8))
    _check(read, kind, inside, order)
    return inside


def _unpacking(file: BinaryIO, left: int) -> Read:
    """Reads the bytes that the next `left` bytes of a file are packed from, a piece at a time."""
    packed, held, source = zlib.decompressobj(), b"", left

    def read(count: int) -> bytes:
        nonlocal held, source
        while len(held) < count:
            content = packed.unconsumed_tail
            if not content:
                content = file.read(min(_PIECE, source))
                source -= len(content)
            piece = packed.decompress(content, _PIECE)
            if not piece and not content:
                raise ValueError("an element ends before its length")
            held += piece
        found, held = held[:count], held[count:]
        return found

    return read


def _check(read: Read, kind: int, length: int, order: str, depth: int = 0) -> None:
    """Pass over an element; those inside of it must not be longer."""
    if kind != _MATRIX:
        _pass(read, length)
        return
    if depth > _DEEPEST:
        raise ValueError("its arrays are nested too deeply")
    left, number, sparse = length, 0, False
    while left >= 8:
        start = read(8)
        kind, inside = struct.unpack(f"{order}2I", start)
        left -= 8
        if short := kind >> 16:  # up to four bytes in the tag itself
            kind, inside, data = kind & 0xFFFF, short, start[4:]
        else:
            if inside > left:
                raise ValueError("an element is longer than the array that holds it")
            rounded = min(-(-inside // 8) * 8, left)
            left -= rounded
            data = read(rounded) if number < 2 and inside < _PIECE else b""
            if not data:
                _check(read, kind, inside, order, depth + 1)
                _pass(read, rounded - inside)
        if number == 0 and data:
            sparse = data[0 if order == "<" else 3] == _SPARSE
        if number == 1 and not sparse:
            shape = struct.unpack(f"{order}{min(inside, len(data)) // 4}i", data[: min(inside, len(data)) // 4 * 4])
            if math.prod(shape) > length:
                raise ValueError(f"an array of shape {shape} has {length} bytes")
        number += 1
    _pass(read, left)


def _pass(read: Read, count: int) -> None:
    while count > 0:
        count -= len(read(min(count, _PIECE))) or count
