"""Boxes, of which HEIF's and JPEG XL's files consist.

Source: ISO/IEC 14496-12, 4.2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Box:
    """A part of a file: its name, and what is in it."""

    name: bytes
    content: bytes

    @property
    def whole(self) -> bytes:
        """As it stands in a file."""
        length = 8 + len(self.content)
        if length < 1 << 32:
            return struct.pack(">I4s", length, self.name) + self.content
        return struct.pack(">I4sQ", 1, self.name, length + 8) + self.content


def boxes(data: bytes, at: int = 0) -> Iterator[Box]:
    """Boxes one after the other, as far as they are whole."""
    while at + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if length == 1 and at + 16 <= len(data):
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        end = len(data) if length == 0 else at + length
        if end < start or end > len(data):
            return
        yield Box(name, data[start:end])
        at = end
