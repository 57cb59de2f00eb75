"""GIF's own structure: frames, and what stands beside them.

Sources: GIF89a (CompuServe, 1990), Netscape's looping extension, XMP part 3 (section 1.1.2).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache, partial
from typing import BinaryIO

from bidiffsr.errors import ImageError
from bidiffsr.images.contents import (
    DAMAGED_FRAMES,
    After,
    Album,
    Contents,
    Part,
    damaged,
    refuse_pages,
)
from bidiffsr.images.metadata import Collector, Metadata, Resolution, decoded_text, insert
from bidiffsr.images.timing import Timing

_SCREEN_END = 13  # of signature and logical screen
_IMAGE, _EXTENSION, _TRAILER = 0x2C, 0x21, 0x3B
_CONTROL, _COMMENT, _APPLICATION = 0xF9, 0xFE, 0xFF
_LOOPS = (b"NETSCAPE2.0", b"ANIMEXTS1.0")
_XMP = b"XMP DataXMP"
_MAGIC = b"\x01" + bytes(range(255, -1, -1)) + b"\0"  # leads readers of any block to the end
_AFTER = {2: After.CLEARED, 3: After.UNDONE}
_HAS_TABLE, _TABLE_SIZE, _INTERLACED = 0x80, 0x07, 0x40
_CODE_BITS = 12  # of the longest code
_LEAST_CODE_BITS, _LONGEST_CHAIN = 3, 4096  # of a code, and of the pixels it stands for


@dataclass(frozen=True)
class _Block:
    """A part of a file behind its screen: where it begins and ends; an extension's label, or 0."""

    kind: int
    start: int
    end: int
    label: int = 0


def contents(data: bytes) -> Contents:
    """What a GIF file's blocks say.

    Raises:
        ImageError: it is an animation, cut short, or its one frame does not cover it.
    """
    blocks = _whole(data)
    frames = [data[block.start : block.end] for block in blocks if block.kind == _IMAGE]
    if len(frames) > 1:
        raise refuse_pages(len(frames))
    _check_places(data, frames)
    if frames and frames[0][1:9] != bytes(4) + data[6:10]:  # readers do not agree on what is there
        raise ImageError("has a frame that leaves a part of it empty; expected a whole picture")
    most = len(data) * 8 // _LEAST_CODE_BITS * _LONGEST_CHAIN
    return Contents(
        data,
        most_pixels=most,
        keyed=True,
        check=lambda: [_check_samples(frame) for frame in frames],
        metadata=partial(metadata, data),
    )


def _check_samples(image: bytes) -> None:
    """Make sure that the codes of a frame stand for all of its pixels (GIF89a, appendix F)."""
    width, height = struct.unpack_from("<2H", image, 5)
    start = 10 + len(_table(image, 9))
    least = image[start]
    if not 1 <= least < _CODE_BITS or _pixels(_joined(image, start + 1), least) < width * height:
        raise damaged("its samples are not all there")


def _pixels(packed: bytes, least: int) -> int:
    """How many pixels codes stand for, up to the one that ends them, or to damage."""
    clear, end = 1 << least, (1 << least) + 1
    lengths = [1] * clear + [0, 0]
    size, before, pixels = least + 1, 0, 0
    buffer = held = 0
    for byte in packed:
        buffer |= byte << held
        held += 8
        while held >= size:
            code = buffer & ((1 << size) - 1)
            buffer >>= size
            held -= size
            if code == clear:
                del lengths[end + 1 :]
                size, before = least + 1, 0
                continue
            if code == end or code > len(lengths) or (code == len(lengths) and not before):
                return pixels
            length = lengths[code] if code < len(lengths) else before + 1
            pixels += length
            if before and len(lengths) < 1 << _CODE_BITS:
                lengths.append(before + 1)
                if len(lengths) == 1 << size and size < _CODE_BITS:
                    size += 1
            before = length
    return pixels


def album(data: bytes) -> Album | None:
    """The frames of an animation; None: there is but one.

    Raises:
        ImageError: they are damaged.
    """
    blocks = _whole(data)
    count = sum(block.kind == _IMAGE for block in blocks)
    if count < 2:
        return None
    width, height = struct.unpack_from("<2H", data, 6)
    plays = 1
    beside = cache(partial(metadata, data))
    for block in blocks:
        content = data[block.start : block.end]
        if block.label == _APPLICATION and content[3:14] in _LOOPS and content[14:16] == b"\3\1":
            again = int.from_bytes(content[16:18], "little")
            plays = again + 1 if again else 0

    def parts() -> Iterator[Part]:
        control = b""
        for block in blocks:
            content = data[block.start : block.end]
            if block.label == _CONTROL and len(content) == 8:
                control = content
            elif block.kind == _IMAGE:
                yield _part(data, content, control, beside)
                control = b""

    return Album(count, parts, (height, width), plays)


def _check_places(data: bytes, frames: list[bytes]) -> None:
    """Make sure that frames lie inside of the screen."""
    across, down = struct.unpack_from("<2H", data, 6)
    for frame in frames:
        left, top, width, height = struct.unpack_from("<4H", frame, 1)
        if left + width > across or top + height > down:
            raise ImageError(DAMAGED_FRAMES)


def _part(data: bytes, image: bytes, control: bytes, beside: Callable[[], Metadata]) -> Part:
    _check_places(data, [image])
    left, top = struct.unpack_from("<2H", image, 1)
    screen = data[:6] + image[5:9] + data[10:_SCREEN_END] + _table(data, 10, _SCREEN_END)
    whole = screen + control + image[:1] + bytes(4) + image[5:] + bytes([_TRAILER])
    packed, hundredths = struct.unpack_from("<BH", control, 3) if control else (0, 0)
    return Part(
        replace(contents(whole), metadata=beside),
        *(Fraction(hundredths, 100), left, top),
        blended=True,
        after=_AFTER.get(packed >> 2 & 7, After.STAYS),
    )


def metadata(data: bytes) -> Metadata:
    """What stands beside the picture."""
    collector = Collector()
    for block in _blocks(data):
        content = data[block.start : block.end]
        if block.label == _COMMENT:
            collector.comment("Comment", decoded_text(_joined(content, 2)))
        elif block.label == _APPLICATION and content[3:14] == _XMP:
            collector.xmp(content[14 : -len(_MAGIC)])
    return collector.found


def embed(file: BinaryIO, metadata: Metadata, _: Resolution) -> list[str]:
    """Put metadata into a file that has none; returns a line for each part that does not fit."""
    parts = []
    for comment in metadata.comments:
        text = comment.line.encode()
        pieces = (text[at : at + 255] for at in range(0, len(text), 255))
        blocks = b"".join(bytes([len(piece)]) + piece for piece in pieces)
        parts.append(bytes([_EXTENSION, _COMMENT]) + blocks + b"\0")
    if metadata.xmp:
        parts.append(bytes([_EXTENSION, _APPLICATION, len(_XMP)]) + _XMP + metadata.xmp + _MAGIC)
    if parts:
        file.seek(0)
        screen = file.read(_SCREEN_END)
        file.seek(0)
        file.write(b"GIF89a")
        insert(file, _SCREEN_END + len(_table(screen, 10)), b"".join(parts))
    others = [("EXIF", metadata.exif), ("IPTC", metadata.iptc)]
    return [f"{what} is left out: GIF has no place for it" for what, held in others if held]


def join(file: BinaryIO, pictures: Iterator[bytes], timing: Timing) -> None:
    """Write an animation of files of equal size; what is beside the first is kept."""
    for index, data in enumerate(pictures):
        blocks = _whole(data)
        if index == 0:
            file.write(b"GIF89a" + data[6:10] + bytes(3))
            if timing.plays != 1:
                again = max(0, min(timing.plays, 65536) - 1)
                loop = bytes([_EXTENSION, _APPLICATION, len(_LOOPS[0])]) + _LOOPS[0]
                file.write(loop + struct.pack("<BBHB", 3, 1, again, 0))
            kept = (block for block in blocks if block.label in (_COMMENT, _APPLICATION))
            for block in kept:
                if data[block.start + 3 : block.start + 14] not in _LOOPS:
                    file.write(data[block.start : block.end])
        control = [data[block.start : block.end] for block in blocks if block.label == _CONTROL]
        transparent = bool(control and control[0][3] & 1)
        key = control[0][6] if transparent else 0
        hundredths = min(round(timing.delays[index] * 100), 65535)
        # Or a frame would be seen through the holes of the next.
        packed = (2 << 2 | 1) if transparent else 1 << 2
        start = bytes([_EXTENSION, _CONTROL, 4])
        file.write(start + struct.pack("<BHBB", packed, hundredths, key, 0))
        for block in blocks:
            if block.kind == _IMAGE:
                file.write(_with_table(data, data[block.start : block.end]))
    file.write(bytes([_TRAILER]))


def _with_table(data: bytes, image: bytes) -> bytes:
    """A frame with its own table of colours, the file's where it has none."""
    if image[9] & _HAS_TABLE:
        return image
    packed = image[9] & _INTERLACED | _HAS_TABLE | data[10] & _TABLE_SIZE
    return image[:9] + bytes([packed]) + _table(data, 10, _SCREEN_END) + image[10:]


def _table(data: bytes, place: int, start: int | None = None) -> bytes:
    """A table of colours; as many zeros where it is not asked for.

    Args:
        data: what it is in.
        place: of the byte that says whether there is one, and how long it is.
        start: where it begins.
    """
    length = 3 << (data[place] & _TABLE_SIZE) + 1 if data[place] & _HAS_TABLE else 0
    return bytes(length) if start is None else data[start : start + length]


def _whole(data: bytes) -> list[_Block]:
    """All blocks.

    Raises:
        ImageError: the end is missing, where libvips would make do with what there is.
    """
    blocks = list(_blocks(data))
    if not blocks or blocks[-1].kind != _TRAILER:
        raise damaged("the end of the file is missing")
    return blocks


def _blocks(data: bytes) -> Iterator[_Block]:
    """The blocks up to the trailer, as far as they are whole."""
    if len(data) < _SCREEN_END:
        return
    at = _SCREEN_END + len(_table(data, 10))
    while at < len(data):
        kind, label = data[at], 0
        if kind == _TRAILER:
            yield _Block(kind, at, at + 1)
            return
        if kind == _EXTENSION and at + 2 < len(data):
            label, end = data[at + 1], _end(data, at + 2)
        elif kind == _IMAGE and at + 10 < len(data):
            end = _end(data, at + 10 + len(_table(data, at + 9)) + 1)
        else:
            return
        if end is None:
            return
        yield _Block(kind, at, end, label)
        at = end


def _end(data: bytes, at: int) -> int | None:
    """Where a chain of blocks of data ends; None where the file does before."""
    while at < len(data):
        length = data[at]
        at += 1 + length
        if not length:
            return at
    return None


def _joined(data: bytes, at: int) -> bytes:
    """What a chain of blocks of data holds."""
    held = bytearray()
    while data[at]:
        held += data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
    return bytes(held)
