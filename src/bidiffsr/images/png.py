"""PNG's own structure: frames, colour description, and how much its bytes can hold.

Source: the PNG specification, W3C, third edition.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping

from bidiffsr.errors import ImageError
from bidiffsr.images.colours import RgbEncoding, rgb_encoding
from bidiffsr.images.contents import Contents, refuse_pages

_SIGNATURE_LENGTH = 8
_DEFLATE_RATIO = 1032  # the most that deflate can shorten
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type (table 11.1)
_BT709, _SRGB_CURVE, _LINEAR = 1, 13, 8  # code points of ITU-T H.273, tables 2 and 3


def contents(data: bytes) -> Contents:
    """What a PNG file's chunks say.

    Raises:
        ImageError: it is an animation, its colours are described in a way that cannot be followed,
            or its transparency is damaged.
    """
    found: dict[bytes, bytes] = {}  # the first of each kind before the pixels, as decoders do
    pixel_bytes = 0
    for name, start, length in _chunks(data):
        if name == b"IDAT":
            pixel_bytes += length
        elif not pixel_bytes and name not in found and name in _INTERPRETED:
            content = data[start : start + length]
            checksum = data[start + length : start + length + 4]
            if zlib.crc32(name + content).to_bytes(4, "big") == checksum:
                found[name] = content
            elif name == b"tRNS":  # libpng would drop it
                raise ImageError("damaged (the transparency chunk's checksum); fetch it again")
    _refuse_animation(found)
    cicp = found.get(b"cICP")
    return Contents(
        data,
        encoding=_described(found) if cicp is None else _coded(cicp),
        obeys_profile=cicp is None,
        most_pixels=_most_pixels(found, pixel_bytes),
    )


def is_complete(data: bytes) -> bool:
    """Whether the closing chunk is there; metadata, orientation among it, may stand before it."""
    return b"IEND\xaeB`\x82" in data


_INTERPRETED = {b"IHDR", b"acTL", b"fcTL", b"cICP", b"sRGB", b"gAMA", b"cHRM", b"tRNS"}


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and length of what each chunk holds, as far as they are whole."""
    position = _SIGNATURE_LENGTH
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        if position + 12 + length > len(data):
            return
        yield name, position + 8, length
        if name == b"IEND":
            return
        position += 12 + length


def _refuse_animation(found: Mapping[bytes, bytes]) -> None:
    animation = found.get(b"acTL", b"")
    if len(animation) == 8:
        frames = int.from_bytes(animation[:4], "big")
        pictures = frames if b"fcTL" in found else frames + 1  # the still one is not among them
        if pictures > 1:
            raise refuse_pages(pictures)


def _most_pixels(found: Mapping[bytes, bytes], pixel_bytes: int) -> float:
    header = found.get(b"IHDR", b"")
    if len(header) != 13:
        return 0
    bits_per_pixel = header[8] * _CHANNELS.get(header[9], 4)
    return pixel_bytes * _DEFLATE_RATIO * 8 / max(bits_per_pixel, 1)


def _coded(cicp: bytes) -> RgbEncoding | None:
    """What a cICP chunk says, which overrules all others (section 4.3)."""
    if len(cicp) == 4:
        primaries, curve, matrix, full_range = cicp
        if (primaries, matrix, full_range) == (_BT709, 0, 1) and curve in (_SRGB_CURVE, _LINEAR):
            return None if curve == _SRGB_CURVE else RgbEncoding(gamma=1.0)
    codes = "/".join(map(str, cicp))
    raise ImageError(
        f"says its colours are of kind {codes} (cICP); expected sRGB (1/13/0/1) or linear light "
        "(1/8/0/1); convert it to sRGB"
    )


def _described(found: Mapping[bytes, bytes]) -> RgbEncoding | None:
    """What gAMA and cHRM say, where no sRGB chunk overrules them (section 4.3)."""
    if b"sRGB" in found:
        return None
    gamma, points = found.get(b"gAMA", b""), found.get(b"cHRM", b"")
    return rgb_encoding(
        int.from_bytes(gamma, "big") / 100_000 if len(gamma) == 4 else None,
        [number / 100_000 for number in struct.unpack(">8I", points)]
        if len(points) == 32
        else None,
    )
