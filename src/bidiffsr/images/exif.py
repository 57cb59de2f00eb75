"""EXIF blocks: checked, fitted to another size, and taken apart for TIFF, whose tags they are.

Source: Exif 2.32 (CIPA DC-008), sections 4.5 and 4.6.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
"""Bytes of a value, by its type."""

WIDTH, HEIGHT, ORIENTATION, ACROSS, DOWN, UNIT = 256, 257, 274, 282, 283, 296
EXIF, GPS, _INTEROPERABILITY = 34665, 34853, 40965  # what these point to are directories
POINTERS = {EXIF, GPS, _INTEROPERABILITY}
_HEADER = b"II*\0\x08\0\0\0"
_PIXELS_ACROSS, _PIXELS_DOWN = 40962, 40963
_THUMBNAIL, _THUMBNAIL_LENGTH = 513, 514
_LONG, _RATIONAL, _POINTER = 4, 5, 13
_INCH, _CENTIMETRE = 2, 3
_ENTRY = 12
_WORDS = {3: 2, 4: 4, 5: 4, 8: 2, 9: 4, 10: 4, 11: 4, 12: 8, 13: 4}  # what byte order applies to


@dataclass(frozen=True)
class Value:
    """A tag's values, numbers little-endian."""

    kind: int
    count: int
    data: bytes


Directory = Mapping[int, "Value | Directory"]
"""Values by tag; directories by the tag that points to them."""


@dataclass(frozen=True)
class _Row:
    """An entry, and where it and its values stand."""

    tag: int
    kind: int
    count: int
    start: int
    """Of its last four bytes."""
    place: int
    """Of its values."""

    @property
    def length(self) -> int:
        return self.count * SIZES[self.kind]


def check(data: bytes) -> None:
    """Make sure that a block is whole.

    Args:
        data: a TIFF header and what it leads to, as EXIF is kept in every format.

    Raises:
        ValueError: it is not.
    """
    whole = fitted(data, 1, 1)
    for _ in _directories(whole):
        pass
    parse(whole)


def fitted(data: bytes, width: int, height: int) -> bytes:
    """The block for an upright picture of another size.

    Orientation and sizes are put right where they stand, and the thumbnail of the smaller picture
    goes; all else, makers' notes included, stays where it is, for they refer to places.

    Args:
        data: a block that ``check`` lets pass.
        width, height: in pixels.
    """
    order = _order(data)
    fixed = bytearray(data)
    taken: list[range] = []
    thumbnail = 0
    sizes = {WIDTH: width, HEIGHT: height, _PIXELS_ACROSS: width, _PIXELS_DOWN: height}
    for rows, end in _directories(data):
        for row in rows.values():
            if row.tag in sizes:
                struct.pack_into(f"{order}HII", fixed, row.start - 6, _LONG, 1, sizes[row.tag])
        turned = rows.get(ORIENTATION)
        if turned is not None and turned.kind == 3:
            if 5 <= struct.unpack_from(order + "H", data, turned.start)[0] <= 8:
                _exchange(fixed, rows.get(ACROSS), rows.get(DOWN))
            struct.pack_into(order + "H", fixed, turned.start, 1)
        taken += [range(row.start - 8, row.start + 4) for row in rows.values()]
        taken += [range(row.place, row.place + row.length) for row in rows.values()]
        if end and end + 4 <= len(data):
            (thumbnail,) = struct.unpack_from(order + "I", data, end)
            struct.pack_into(order + "I", fixed, end, 0)
    if thumbnail:
        place, length = _thumbnail(data, order, thumbnail)
        if all(one.stop <= place or one.start >= place + length for one in taken):
            fixed[place : place + length] = bytes(length)
            if place + length == len(fixed) and all(one.stop <= place for one in taken):
                del fixed[place:]
    return bytes(fixed)


def with_resolution(data: bytes, dpi: tuple[float, float]) -> bytes:
    """A block, or none, with the resolution that a picture has, where it states none itself."""
    tree = dict(parse(data)) if data else {}
    if ACROSS in tree:
        return data
    for tag, number in ((ACROSS, dpi[0]), (DOWN, dpi[1])):
        tree[tag] = Value(_RATIONAL, 1, struct.pack("<2I", round(number * 1000), 1000))
    tree[UNIT] = Value(3, 1, struct.pack("<H", _INCH))
    return block(tree)


def resolution(data: bytes) -> tuple[float, float] | None:
    """Dots per inch of the picture made upright; None where a block does not state them."""
    tree = parse(fitted(data, 1, 1))
    numbers = [_number(tree.get(tag)) for tag in (UNIT, ACROSS, DOWN)]
    unit, across, down = numbers
    if not across or not down:
        return None
    each = {_CENTIMETRE: 2.54}.get(int(unit or _INCH), 1.0)
    return round(across * each, 1), round(down * each, 1)


def orientation(data: bytes) -> int:
    """How a block says that the picture is turned, 1 to 8; 1 where it does not."""
    found = int(_number(parse(data).get(ORIENTATION)))
    return found if 1 <= found <= 8 else 1


def _number(value: Value | Directory | None) -> float:
    """One whole number of 16 bits or one fraction; 0 for any other."""
    if isinstance(value, Value) and (value.kind, value.count) == (3, 1):
        return struct.unpack_from("<H", value.data)[0]
    if isinstance(value, Value) and (value.kind, value.count) == (_RATIONAL, 1):
        above, below = struct.unpack("<2I", value.data)
        return above / below if below else 0.0
    return 0.0


def parse(data: bytes) -> Directory:
    """The directories of a block, less the thumbnail's.

    Raises:
        ValueError: it is not whole.
    """
    order = _order(data)
    (start,) = struct.unpack_from(order + "I", data, 4)
    return read(data, order, _rows(data, order, start)[0])


def read(data: bytes, order: str, rows: Mapping[int, _Row]) -> Directory:
    """What rows stand for.

    Raises:
        ValueError: it is not whole.
    """
    found: dict[int, Value | Directory] = {}
    for tag, row in rows.items():
        content = data[row.place : row.place + row.length]
        if tag in POINTERS:
            below, _ = _rows(data, order, _target(data, order, row), without=POINTERS)
            found[tag] = read(data, order, below)
        else:
            found[tag] = Value(row.kind, row.count, little_endian(content, row.kind, order))
    return found


def little_endian(content: bytes, kind: int, order: str) -> bytes:
    """Values of a type with their bytes in the order of ``Value``."""
    size = _WORDS.get(kind, 1)
    if order == "<" or size == 1:
        return content
    return b"".join(content[at : at + size][::-1] for at in range(0, len(content), size))


def block(tree: Directory) -> bytes:
    """A whole block, little-endian."""
    return _HEADER + build(tree, len(_HEADER))


def build(tree: Directory, place: int) -> bytes:
    """A directory and all that belongs to it, little-endian, to stand at ``place`` in its file."""
    entries, behind = [], b""
    end = place + 2 + _ENTRY * len(tree) + 4
    for tag, value in sorted(tree.items()):
        start = end + len(behind)
        if not isinstance(value, Value):
            directory = build(value, start)
            behind += directory + bytes(len(directory) % 2)
            value = Value(_LONG, 1, struct.pack("<I", start))
        elif len(value.data) > 4:
            behind += value.data + bytes(len(value.data) % 2)
            value = replace(value, data=struct.pack("<I", start))
        entries.append(
            struct.pack("<HHI", tag, value.kind, value.count) + value.data.ljust(4, b"\0")
        )
    return struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4) + behind


def _order(data: bytes) -> str:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 8:
        raise ValueError("its header is none")
    return order


def _directories(data: bytes) -> Iterator[tuple[dict[int, _Row], int]]:
    """The picture's directory and those it points to: rows, and where the next one's place stands.

    0 where that is of no use.
    """
    order = _order(data)
    (start,) = struct.unpack_from(order + "I", data, 4)
    rows, end = _rows(data, order, start)
    yield rows, end
    seen = [range(start, end)]
    below = [rows]
    while below:
        above = below.pop()
        for tag in sorted(POINTERS & above.keys()):
            start = _target(data, order, above[tag])
            # A pointer from one of these to another makes no sense.
            rows, end = _rows(data, order, start, without=POINTERS - {_INTEROPERABILITY})
            if any(start < other.stop and other.start < end for other in seen):
                raise ValueError("its directories lie across each other")
            seen.append(range(start, end))
            if tag != _INTEROPERABILITY:
                below.append(rows)
            yield rows, 0


def _target(data: bytes, order: str, row: _Row) -> int:
    """Where the directory stands that a row points to."""
    if (row.kind, row.count) not in ((_LONG, 1), (_POINTER, 1)):
        raise ValueError("its directory is damaged")
    return struct.unpack_from(order + "I", data, row.start)[0]


def _rows(
    data: bytes, order: str, start: int, without: Collection[int] = ()
) -> tuple[dict[int, _Row], int]:
    """The entries of a directory, and where it ends."""
    try:
        (count,) = struct.unpack_from(order + "H", data, start)
        rows: dict[int, _Row] = {}
        for at in range(start + 2, start + 2 + count * _ENTRY, _ENTRY):
            tag, kind, number = struct.unpack_from(order + "HHI", data, at)
            (offset,) = struct.unpack_from(order + "I", data, at + 8)
            row = _Row(tag, kind, number, at + 8, at + 8)
            if row.length > 4:
                row = _Row(tag, kind, number, at + 8, offset)
            if row.place + row.length > len(data):
                raise ValueError("it ends before what it holds")
            if tag not in without:
                rows.setdefault(tag, row)
    except (struct.error, KeyError):
        raise ValueError("its directory is damaged") from None
    return rows, start + 2 + count * _ENTRY


def _exchange(data: bytearray, one: _Row | None, other: _Row | None) -> None:
    """Exchange two fractions: a quarter turn makes across of down."""
    if one is not None and other is not None and one.length == other.length == 8:
        first, second = (slice(row.place, row.place + 8) for row in (one, other))
        data[first], data[second] = data[second], data[first]


def _thumbnail(data: bytes, order: str, start: int) -> tuple[int, int]:
    """Where the thumbnail of a directory stands, and how long it is: 0 where there is none."""
    try:
        rows, _ = _rows(data, order, start)
        place, length = (
            struct.unpack_from(order + "I", data, rows[tag].start)[0]
            for tag in (_THUMBNAIL, _THUMBNAIL_LENGTH)
        )
    except (ValueError, KeyError):
        return 0, 0
    return place, min(length, max(0, len(data) - place))
