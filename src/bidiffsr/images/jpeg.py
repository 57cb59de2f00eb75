"""JPEG's own structure: how much its bytes can hold, and the picture without what is beside it.

Source: ITU-T T.81, annex B.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

from bidiffsr.errors import ImageError
from bidiffsr.images.contents import Contents
from bidiffsr.images.exif import with_resolution
from bidiffsr.images.metadata import (
    Collector,
    Metadata,
    Resolution,
    decoded_text,
    insert,
    photoshop_resource,
)

_START_OF_SCAN, _END_OF_IMAGE, _ADOBE = 0xDA, 0xD9, 0xEE
_JFIF_APP0 = b"\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
_METADATA = {*range(0xE0, 0xF0), 0xFE} - {_ADOBE}  # APPn and COM; Adobe's states the colour space
_APP0, _APP1, _APP13, _COMMENT = 0xE0, 0xE1, 0xED, 0xFE
_EXIF, _XMP, _PHOTOSHOP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\0"
_LONGEST = 65533  # of a segment's content
XMP_ROOM = _LONGEST - len(_XMP)
"""Bytes of the largest packet."""
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
# Each 8 x 8 block takes at least these bits: codes for DC and for the end, or in the first scan of
# a progressive frame for DC alone. Arithmetic coding and lossless frames keep no such promise.
_LEAST_BITS = {0xC0: 2, 0xC1: 2, 0xC2: 1}
_DECODED = {*_LEAST_BITS, 0xC9, 0xCA}


def contents(data: bytes) -> Contents:
    """What a JPEG file's segments say.

    Raises:
        ImageError: it is of a variant that is not decoded.
    """
    most_pixels = math.inf
    for marker, start, end in _segments(data):
        frame = data[start + 4 : end]
        if marker in _FRAMES and frame:
            bits = frame[0]
            if marker not in _DECODED or bits != 8:
                raise ImageError(
                    f"is a JPEG of process {marker - 0xC0} with {bits} bits; expected a baseline "
                    "or progressive one of 8 bits; convert it"
                )
            most_pixels = _most_pixels(frame, marker, len(data))
            break
    return Contents(
        data,
        most_pixels=most_pixels,
        metadata=partial(metadata, data),
        bare=partial(bare, data),
    )


def bare(data: bytes) -> bytes:
    """The file with nothing but what its pixels depend on."""
    parts, picture = [data[:2]], 2
    for marker, start, end in _segments(data):
        picture = end
        if marker not in _METADATA:
            parts.append(data[start:end])
        elif data[start : start + 9].endswith(b"JFIF\0"):  # a promise of YCbCr
            parts.append(_JFIF_APP0)
    return b"".join([*parts, data[picture:]])


def metadata(data: bytes) -> Metadata:
    """What stands beside the picture."""
    collector = Collector()
    resources = b""
    for marker, start, end in _segments(data):
        content = data[start + 4 : end]
        if marker == _APP1 and content.startswith(_EXIF):
            collector.exif(content)
        elif marker == _APP1 and content.startswith(_XMP):
            collector.xmp(content.removeprefix(_XMP))
        elif marker == _APP13 and content.startswith(_PHOTOSHOP):
            resources += content.removeprefix(_PHOTOSHOP)
        elif marker == _COMMENT:
            collector.comment("Comment", decoded_text(content))
    collector.photoshop(resources)
    return collector.found


def embed(file: BinaryIO, metadata: Metadata, dpi: Resolution) -> list[str]:
    """Put metadata into a file that has none; returns a line for each part that does not fit."""
    block = metadata.exif
    if not block and dpi is not None and dpi != tuple(map(round, dpi)):
        block = with_resolution(b"", dpi)  # which JFIF cannot say
    wanted = [
        ("JFIF", _APP0, _jfif(dpi)),
        ("EXIF", _APP1, _EXIF + block if block else b""),
        ("XMP", _APP1, _XMP + metadata.xmp if metadata.xmp else b""),
        ("IPTC", _APP13, _PHOTOSHOP + photoshop_resource(metadata.iptc) if metadata.iptc else b""),
        *(("a comment", _COMMENT, one.line.encode()) for one in metadata.comments),
    ]
    parts, left_out = [], []
    for what, marker, content in wanted:
        if len(content) > _LONGEST:
            left_out.append(
                f"{what} is left out: {len(content)} bytes; JPEG has room for {_LONGEST}"
            )
        elif content:
            parts.append(struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content)
    insert(file, 2, b"".join(parts))
    return left_out


def _jfif(dpi: Resolution) -> bytes:
    """The content of the segment that promises YCbCr, in whole dots per inch (JFIF 1.02)."""
    unit, across, down = (0, 1, 1) if dpi is None else (1, *(min(round(n), 65535) for n in dpi))
    return b"JFIF\0\1\2" + struct.pack(">BHHBB", unit, across, down, 0, 0)


def is_complete(data: bytes) -> bool:
    """Whether an end-of-image marker follows the first scan's start.

    A tail of zeros, as broken downloads and memory cards leave it, is grey picture to libjpeg.
    The thumbnail inside the headers has an end marker too, so headers are stepped over.
    """
    position = 2
    for _, _, end in _segments(data):
        position = end
    return data.find(bytes([0xFF, _END_OF_IMAGE]), position) >= 0


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each whole header segment, up to the first start of scan."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = struct.unpack_from(">xBH", data, position)
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        end = position + 2 + length
        if end > len(data):
            return
        yield marker, position, end
        if marker == _START_OF_SCAN:
            return
        position = end


def _most_pixels(frame: bytes, marker: int, size: int) -> float:
    """Pixels that `size` bytes can hold, by the frame header's precision, sides and components."""
    factors = [(code >> 4, code & 15) for code in frame[7::3][: frame[5]]] if len(frame) > 5 else []
    if (
        marker not in _LEAST_BITS
        or not factors
        or 0 in (number for pair in factors for number in pair)
    ):
        return math.inf
    largest = max(across for across, _ in factors) * max(down for _, down in factors)
    blocks_per_pixel = sum(across * down for across, down in factors) / largest / 64
    return size * 8 / (_LEAST_BITS[marker] * blocks_per_pixel)
