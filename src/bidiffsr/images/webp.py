"""WebP's own structure: frames, and what belongs to the picture.

Source: the WebP container specification (RFC 9649, section 2).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import cache, partial
from typing import BinaryIO

from bidiffsr.errors import ImageError, OutputError
from bidiffsr.images.contents import DAMAGED_FRAMES, After, Album, Contents, Part, refuse_pages
from bidiffsr.images.exif import with_resolution
from bidiffsr.images.metadata import Collector, Metadata, Resolution, insert
from bidiffsr.images.timing import Timing

_FIRST_CHUNK = 12
_IS_ANIMATED, _HAS_XMP, _HAS_EXIF, _HAS_ALPHA, _HAS_PROFILE = 0x02, 0x04, 0x08, 0x10, 0x20
_NOT_BLENDED = 2  # of a frame's flags
_LARGEST = (1 << 32) - 2  # bytes of a file


def contents(data: bytes) -> Contents:
    """What a WebP file's chunks say.

    Raises:
        ImageError: it is an animation.
    """
    frames = sum(name == b"ANMF" for name, _, _ in _chunks(data))
    if frames > 1:
        raise refuse_pages(frames)
    return Contents(data, metadata=partial(metadata, data))


def album(data: bytes) -> Album | None:
    """The frames of an animation; None: of no other.

    Raises:
        ImageError: they are damaged.
    """
    chunks = list(_chunks(data))
    found = {name: data[start:stop] for name, start, stop in chunks}
    extended, animation = found.get(b"VP8X", b""), found.get(b"ANIM", b"")
    if b"ANMF" not in found:
        return None
    if len(extended) != 10 or len(animation) != 6 or chunks[-1][2] > len(data):
        raise ImageError(DAMAGED_FRAMES)
    canvas = _side(extended, 7), _side(extended, 4)
    frames = [(start, stop) for name, start, stop in chunks if name == b"ANMF"]
    profile, beside = found.get(b"ICCP", b""), cache(partial(metadata, data))

    def parts() -> Iterator[Part]:
        for start, stop in frames:
            yield _part(data[start:stop], profile, canvas, beside)

    return Album(len(frames), parts, canvas, int.from_bytes(animation[4:], "little"))


def _part(
    frame: bytes, profile: bytes, canvas: tuple[int, int], beside: Callable[[], Metadata]
) -> Part:
    if len(frame) < 16:
        raise ImageError(DAMAGED_FRAMES)
    left, top = (2 * int.from_bytes(frame[at : at + 3], "little") for at in (0, 3))
    width, height = _side(frame, 6), _side(frame, 9)
    if top + height > canvas[0] or left + width > canvas[1]:
        raise ImageError(DAMAGED_FRAMES)
    flags = frame[15]
    inside = {name: frame[start:stop] for name, start, stop in _chunks(frame, 16)}
    held = [(b"ICCP", profile)] if profile else []
    held += [(name, inside[name]) for name in (b"ALPH", b"VP8 ", b"VP8L") if name in inside]
    alpha = _HAS_ALPHA if _is_transparent(inside) else 0
    extended = bytes([alpha | (_HAS_PROFILE if profile else 0), 0, 0, 0]) + frame[6:12]
    file = io.BytesIO()
    file.write(b"RIFF\0\0\0\0WEBP" + _chunk(b"VP8X", extended))
    file.write(b"".join(_chunk(*part) for part in held))
    _finish(file)
    return Part(
        replace(contents(file.getvalue()), metadata=beside),
        *(Fraction(int.from_bytes(frame[12:15], "little"), 1000), left, top),
        blended=not flags & _NOT_BLENDED,
        after=After.CLEARED if flags & 1 else After.STAYS,
    )


def join(file: BinaryIO, pictures: Iterator[bytes], timing: Timing) -> None:
    """Write an animation of files of equal size; what is beside the first is kept."""
    file.write(b"RIFF\0\0\0\0WEBP")
    behind = b""
    for index, data in enumerate(pictures):
        inside = {name: data[start:stop] for name, start, stop in _chunks(data)}
        size = _size(data)
        if index == 0:
            kept = {b"ICCP": _HAS_PROFILE, b"EXIF": _HAS_EXIF, b"XMP ": _HAS_XMP}
            flags = sum(flag for name, flag in kept.items() if name in inside)
            flags |= _IS_ANIMATED | (_HAS_ALPHA if _is_transparent(inside) else 0)
            file.write(_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + size))
            if b"ICCP" in inside:
                file.write(_chunk(b"ICCP", inside[b"ICCP"]))
            plays = min(timing.plays, 65535)
            file.write(_chunk(b"ANIM", struct.pack("<IH", 0, plays)))
            behind = b"".join(
                _chunk(name, inside[name]) for name in (b"EXIF", b"XMP ") if name in inside
            )
        delay = min(round(timing.delays[index] * 1000), 0xFFFFFF).to_bytes(3, "little")
        frame = bytes(6) + size + delay + bytes([_NOT_BLENDED])
        for name in (b"ALPH", b"VP8 ", b"VP8L"):
            if name in inside:
                frame += _chunk(name, inside[name])
        file.write(_chunk(b"ANMF", frame))
    file.write(behind)
    _finish(file)


def _finish(file: BinaryIO) -> None:
    """State the length of a file in its header."""
    size = file.seek(0, io.SEEK_END) - 8
    if size > _LARGEST:
        raise OutputError("WebP holds no more than 4 GB; write .png or .tif instead")
    file.seek(4)
    file.write(struct.pack("<I", size))


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack("<4sI", name, len(content)) + content + bytes(len(content) % 2)


def _is_transparent(inside: Mapping[bytes, bytes]) -> bool:
    """Whether there is alpha, by the chunks of a picture."""
    return b"ALPH" in inside or bool(inside.get(b"VP8L", bytes(5))[4] & 0x10)


def _side(data: bytes, place: int) -> int:
    return int.from_bytes(data[place : place + 3], "little") + 1


def metadata(data: bytes) -> Metadata:
    """What stands beside the picture."""
    collector = Collector()
    for name, start, stop in _chunks(data):
        if name == b"EXIF":
            collector.exif(data[start:stop])
        elif name == b"XMP ":
            collector.xmp(data[start:stop])
    return collector.found


def embed(file: BinaryIO, metadata: Metadata, dpi: Resolution) -> list[str]:
    """Put metadata into a file that has none; returns a line for each part that does not fit."""
    block = metadata.exif if dpi is None else with_resolution(metadata.exif, dpi)
    parts = [(b"EXIF", block, _HAS_EXIF), (b"XMP ", metadata.xmp, _HAS_XMP)]
    held = [part for part in parts if part[1]]
    if held:
        _extend(file, sum(flag for _, _, flag in held))
        file.seek(0, io.SEEK_END)
        for name, content, _ in held:
            file.write(_chunk(name, content))
        _finish(file)
    others = [("IPTC", metadata.iptc), ("a comment", metadata.comments)]
    return [f"{what} is left out: WebP has no place for it" for what, held in others if held]


def _chunks(data: bytes, position: int = _FIRST_CHUNK) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of what each chunk holds."""
    while position + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, position)
        yield name, position + 8, position + 8 + length
        position += 8 + length + length % 2


def _extend(file: BinaryIO, flags: int) -> None:
    """Set flags of the chunk VP8X; a simple file gets one (section 2.7)."""
    file.seek(_FIRST_CHUNK)
    start = file.read(18)
    if start[:4] == b"VP8X":
        file.seek(_FIRST_CHUNK + 8)
        file.write(bytes([start[8] | flags]))
        return
    if start[:4] == b"VP8L" and start[12] >> 4 & 1:
        flags |= _HAS_ALPHA
    extended = bytes([flags, 0, 0, 0]) + _size(bytes(_FIRST_CHUNK) + start)
    insert(file, _FIRST_CHUNK, _chunk(b"VP8X", extended))


def _size(data: bytes) -> bytes:
    """Width and height, each less one and of 24 bits, by the first chunk of a file."""
    start = data[_FIRST_CHUNK : _FIRST_CHUNK + 18]
    if start[:4] == b"VP8X":
        return start[12:18]
    if start[:4] == b"VP8L":  # they are in the bits behind its signature
        bits = int.from_bytes(start[9:13], "little")
        width, height = bits & 0x3FFF, bits >> 14 & 0x3FFF
    else:
        width, height = (side - 1 & 0x3FFF for side in struct.unpack_from("<HH", start, 14))
    return width.to_bytes(3, "little") + height.to_bytes(3, "little")
