"""PNG's own structure: frames, colour description, and how much its bytes can hold.

Source: the PNG specification, W3C, third edition.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import cache, partial
from typing import BinaryIO

from bidiffsr.errors import ImageError
from bidiffsr.images.colours import RgbEncoding, rgb_encoding
from bidiffsr.images.contents import DAMAGED_FRAMES, After, Album, Contents, Part, refuse_pages
from bidiffsr.images.metadata import Collector, Metadata, Resolution, insert, unpacked
from bidiffsr.images.timing import Timing

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SIGNATURE_LENGTH = len(_SIGNATURE)
_DEFLATE_RATIO = 1032  # the most that deflate can shorten
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type (table 11.1)
_FIRST_CHUNKS_END = 33  # of the header's
_XMP_KEYWORD, _RAW_PROFILE = "XML:com.adobe.xmp", "Raw profile type "
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
        metadata=partial(metadata, data),
    )


def album(data: bytes) -> Album | None:
    """The frames of an animation, without a still picture that is none of them; None: of no other.

    Raises:
        ImageError: they are damaged.
    """
    found = {name: data[start : start + length] for name, start, length in _chunks(data)}
    animation, header = found.get(b"acTL", b""), found.get(b"IHDR", b"")
    if len(animation) != 8 or len(header) != 13 or b"fcTL" not in found:
        return None
    count, plays = struct.unpack(">2I", animation)
    if count != sum(1 for _ in _frames(data)):
        raise ImageError(DAMAGED_FRAMES)
    width, height = struct.unpack_from(">2I", header)
    beside = cache(partial(metadata, data))

    def parts() -> Iterator[Part]:
        for frame, control in _frames(data):
            *_, left, top, above, below, after, blend = struct.unpack(">5I2H2B", control)
            yield Part(
                replace(contents(frame), metadata=beside),
                *(Fraction(above, below or 100), left, top),
                blended=blend == 1,
                after=After(after),
            )

    return Album(count, parts, (height, width), plays)


def _frames(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Each frame as a file of its own, and what its fcTL chunk says."""
    header, control = b"", b""
    shared: list[bytes] = []
    pixels: list[bytes] = []
    number = 0
    for name, start, length in _chunks(data):
        content = data[start : start + length]
        whole = data[start - 8 : start + length + 4]
        if name in (b"fcTL", b"fdAT"):
            if _chunk(name, content) != whole or content[:4] != struct.pack(">I", number):
                raise ImageError(DAMAGED_FRAMES)
            number += 1
        if name == b"fcTL":
            if control:
                yield _frame(header, shared, control, pixels), control
            control, pixels = content, []
            _check_frame(header, control)
        elif name == b"fdAT":
            pixels.append(_chunk(b"IDAT", content[4:]))
        elif name == b"IDAT" and control:
            pixels.append(whole)
        elif name == b"IHDR":
            header = content
        elif name in _SHARED and not pixels:
            shared.append(whole)
    if control:
        yield _frame(header, shared, control, pixels), control


def _check_frame(header: bytes, control: bytes) -> None:
    """Make sure that a frame lies inside of the picture."""
    if len(header) != 13 or len(control) != 26:
        raise ImageError(DAMAGED_FRAMES)
    canvas = struct.unpack_from(">2I", header)
    size, place = struct.unpack_from(">2I", control, 4), struct.unpack_from(">2I", control, 12)
    if any(a + b > c for a, b, c in zip(size, place, canvas, strict=True)) or control[24] > 2:
        raise ImageError(DAMAGED_FRAMES)


def _frame(header: bytes, shared: list[bytes], control: bytes, pixels: list[bytes]) -> bytes:
    if not pixels:
        raise ImageError(DAMAGED_FRAMES)
    first = _chunk(b"IHDR", control[4:12] + header[8:])
    return b"".join([_SIGNATURE, first, *shared, *pixels, _chunk(b"IEND", b"")])


def join(file: BinaryIO, pictures: Iterator[bytes], timing: Timing) -> None:
    """Write an animation of files of equal size and kind; what is beside the first is kept."""
    number = 0
    for index, data in enumerate(pictures):
        pixels = False
        for name, start, length in _chunks(data):
            whole = data[start - 8 : start + length + 4]
            if name == b"IDAT" and not pixels:
                pixels = True
                sides, delay = data[16:24], _delay(timing.delays[index])
                file.write(_chunk(b"fcTL", struct.pack(">I", number) + sides + bytes(8) + delay))
                number += 1
            if name == b"IDAT" and index:
                content = struct.pack(">I", number) + data[start : start + length]
                file.write(_chunk(b"fdAT", content))
                number += 1
            elif index == 0 and name == b"IHDR":
                count = struct.pack(">2I", len(timing.delays), timing.plays)
                file.write(_SIGNATURE + whole + _chunk(b"acTL", count))
            elif index == 0 and name != b"IEND":
                file.write(whole)
    file.write(_chunk(b"IEND", b""))


def _delay(seconds: Fraction) -> bytes:
    """As the end of an fcTL chunk of a frame that stays and hides what was there."""
    most = 65535
    near = min(seconds, Fraction(most)).limit_denominator(int(most / max(seconds, 1)) or 1)
    return struct.pack(">2H2B", near.numerator, near.denominator, 0, 0)


def metadata(data: bytes) -> Metadata:
    """What stands beside the picture, before or behind it."""
    collector = Collector()
    for name, start, length in _chunks(data):
        content = data[start : start + length]
        what = {b"eXIf": "EXIF"}.get(name, "a text")
        if name != b"eXIf" and name not in _TEXTS:
            continue
        if zlib.crc32(name + content) != int.from_bytes(data[start + length :][:4], "big"):
            collector.leave_out(what, "its checksum is wrong")
        elif name == b"eXIf":
            collector.exif(content)
        else:
            try:
                _collect_text(collector, *_TEXTS[name](content))
            except ValueError as error:
                collector.leave_out(what, error)
    return collector.found


def embed(file: BinaryIO, metadata: Metadata, _: Resolution) -> list[str]:
    """Put metadata into a file that has none; returns a line for each part that does not fit."""
    parts = [_chunk(b"eXIf", metadata.exif)] if metadata.exif else []
    texts = [(_XMP_KEYWORD, metadata.xmp.decode())] if metadata.xmp else []
    texts += [(one.keyword, one.text) for one in metadata.comments]
    for keyword, text in texts:
        latin = keyword != _XMP_KEYWORD and _is_latin(text)
        name = keyword.encode("latin-1") + b"\0"
        parts.append(
            _chunk(b"tEXt", name + text.encode("latin-1"))
            if latin
            else _chunk(b"iTXt", name + bytes(4) + text.encode())
        )
    insert(file, _FIRST_CHUNKS_END, b"".join(parts))
    return ["IPTC is left out: PNG has no place for it"] if metadata.iptc else []


def _chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack(">I4s", len(content), name) + content + struct.pack(">I", checksum)


def _is_latin(text: str) -> bool:
    return all(char == "\n" or " " <= char <= "~" or "\xa0" <= char <= "\xff" for char in text)


def _collect_text(collector: Collector, keyword: str, text: str) -> None:
    """A text, or what other programs have put into one."""
    if keyword == _XMP_KEYWORD:
        collector.xmp(text.encode())
    elif keyword.startswith(_RAW_PROFILE):  # as ImageMagick writes it: name, length, digits
        kind = keyword.removeprefix(_RAW_PROFILE).lower()
        content = bytes.fromhex("".join(text.split()[2:]))
        if kind == "iptc":
            collector.photoshop(content)
        elif kind == "xmp":
            collector.xmp(content)
        elif kind in ("exif", "app1"):
            collector.exif(content)
    else:
        collector.comment(keyword, text)


def _latin_text(content: bytes) -> tuple[str, str]:
    """Section 11.3.3.2."""
    keyword, text = _keyword(content)
    return keyword, text.decode("latin-1")


def _packed_text(content: bytes) -> tuple[str, str]:
    """Section 11.3.3.3."""
    keyword, text = _keyword(content)
    return keyword, unpacked(text[1:]).decode("latin-1")


def _international_text(content: bytes) -> tuple[str, str]:
    """Section 11.3.3.4."""
    keyword, rest = _keyword(content)
    _, _, text = [*rest[2:].split(b"\0", 2), b"", b""][:3]
    return keyword, (unpacked(text) if rest[:1] == b"\1" else text).decode("utf-8")


def _keyword(content: bytes) -> tuple[str, bytes]:
    keyword, end, rest = content.partition(b"\0")
    if not end or not 1 <= len(keyword) <= 79:
        raise ValueError("it has no keyword")
    return keyword.decode("latin-1"), rest


_TEXTS: Mapping[bytes, Callable[[bytes], tuple[str, str]]] = {
    b"tEXt": _latin_text,
    b"zTXt": _packed_text,
    b"iTXt": _international_text,
}


def is_complete(data: bytes) -> bool:
    """Whether the closing chunk is there; metadata, orientation among it, may stand before it."""
    return b"IEND\xaeB`\x82" in data


# What the pixels of all frames depend on.
_SHARED = {b"PLTE", b"tRNS", b"cICP", b"sRGB", b"gAMA", b"cHRM", b"iCCP", b"sBIT", b"pHYs"}
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
