"""JPEG XL's own structure: header, boxes, and what stands beside the picture.

libvips does the rest where it knows the format, else OpenImageIO (the extra `jxl`).

Sources: ISO/IEC 18181-1 (the header's bits: 9.2, annexes B and D), 18181-2 (boxes).
"""

from __future__ import annotations

import struct
import tempfile
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bidiffsr.errors import ImageError
from bidiffsr.images.boxes import Box, boxes
from bidiffsr.images.compression import Compression, Pack
from bidiffsr.images.contents import Contents, Raw, damaged, refuse_samples
from bidiffsr.images.exif import with_resolution
from bidiffsr.images.extras import optional
from bidiffsr.images.libvips import libvips
from bidiffsr.images.libvips import metadata as item
from bidiffsr.images.metadata import LARGEST, Collector, Metadata, Resolution
from bidiffsr.images.openimageio import decode

if TYPE_CHECKING:
    import pyvips

NAME, EXTRA = "JPEG XL", "jxl"

_START = b"\xff\x0a"
_CONTAINER = Box(b"JXL ", b"\r\n\x87\n").whole + Box(b"ftyp", b"jxl \0\0\0\0jxl ").whole
_RATIOS = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_GREY = 1
_ALPHA, _BLACK = 0, 4
_SRGB = ((1, 13), (0, 13))  # primaries and curve, of colours and of grey
_EMBEDDED = (b"Exif", b"xml ", b"brob")
_LEAST = 256
_EFFORT = 4  # of 1 to 9: beyond it files hardly become smaller and take twice as long


@dataclass(frozen=True)
class Head:
    """What the codestream says first.

    Attributes:
        height, width: upright, in pixels.
        bits: of a sample.
        floats: whether samples are floating point.
        grey: whether there is one colour channel.
        alpha: whether there is an alpha channel.
        premultiplied: whether colours are multiplied by it.
        others: how many channels there are beside colours and alpha.
        animated: whether there may be several frames; nothing beyond the sides is then known.
    """

    height: int
    width: int
    bits: int = 8
    floats: bool = False
    grey: bool = False
    alpha: bool = False
    premultiplied: bool = False
    others: int = 0
    animated: bool = False

    @property
    def channels(self) -> int:
        """Of colours and alpha."""
        return (1 if self.grey else 3) + self.alpha

    @property
    def sample_bytes(self) -> int:
        """Of a sample, decoded."""
        return 1 if self.bits <= 8 else 2


class _Bits:
    """A codestream's bits, the lowest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> int:
        """So many bits as a number."""
        end = self._at + count
        if end > 8 * len(self._data):
            raise damaged("its header is cut short")
        piece = int.from_bytes(self._data[self._at // 8 : (end + 7) // 8], "little")
        value = piece >> self._at % 8 & (1 << count) - 1
        self._at = end
        return value

    def flag(self) -> bool:
        """One bit."""
        return bool(self.take(1))

    def number(self, *kinds: tuple[int, int]) -> int:
        """A number of four kinds, each an offset and a count of bits behind it (9.2.2, U32)."""
        offset, count = kinds[self.take(2)]
        return offset + self.take(count)

    def enum(self) -> int:
        """9.2.5."""
        return self.number((0, 0), (1, 0), (2, 4), (18, 6))


def head_of(codestream: bytes) -> Head:
    """The header of a codestream.

    Raises:
        ImageError: it is none, or cut short.
    """
    if not codestream.startswith(_START):
        raise damaged("it has no codestream")
    bits = _Bits(codestream[len(_START) : 4096])
    height, width = _size(bits, 5, ((1, 9), (1, 13), (1, 18), (1, 30)))
    if bits.flag():  # all is as it usually is
        return Head(height, width)
    if bits.flag():
        if bits.take(3) + 1 >= 5:  # orientation, as EXIF's
            height, width = width, height
        if bits.flag():  # another size to show it in
            _size(bits, 5, ((1, 9), (1, 13), (1, 18), (1, 30)))
        if bits.flag():
            _preview(bits)
        if bits.flag():
            return Head(height, width, animated=True)
    floats, depth = _depth(bits)
    bits.flag()  # whether 16 bits are enough to decode it
    alpha = premultiplied = False
    others = 0
    for _ in range(bits.number((0, 0), (1, 0), (2, 4), (1, 12))):
        kind, associated = _extra_channel(bits)
        others += kind != _ALPHA or alpha
        premultiplied |= associated
        alpha |= kind == _ALPHA
    bits.flag()  # whether it was made by way of XYB
    grey = False
    if not bits.flag():  # else sRGB
        bits.flag()  # whether an ICC profile follows
        grey = bits.enum() == _GREY
    return Head(height, width, depth, floats, grey, alpha, premultiplied, others)


def _size(bits: _Bits, small: int, kinds: tuple[tuple[int, int], ...]) -> tuple[int, int]:
    """Height and width (B.2)."""
    in_eights = bits.flag()

    def side() -> int:
        return 8 * (bits.take(small) + 1) if in_eights else bits.number(*kinds)

    height = side()
    ratio = bits.take(3)
    over, under = _RATIOS[ratio]
    return height, height * over // under if ratio else side()


def _preview(bits: _Bits) -> None:
    """Skip what is said of a small picture (B.3), which is decoded by nobody here."""
    in_eights = bits.flag()
    eights, ones = ((16, 0), (32, 0), (1, 5), (33, 9)), ((1, 6), (65, 8), (321, 10), (1345, 12))
    kinds = eights if in_eights else ones
    bits.number(*kinds)
    if bits.take(3) == 0:
        bits.number(*kinds)


def _depth(bits: _Bits) -> tuple[bool, int]:
    """Whether samples are floats, and of how many bits (D.3.3)."""
    if not bits.flag():
        return False, bits.number((8, 0), (10, 0), (12, 0), (1, 6))
    depth = bits.number((32, 0), (16, 0), (24, 0), (1, 6))
    bits.take(4)  # of the exponent
    return True, depth


def _extra_channel(bits: _Bits) -> tuple[int, bool]:
    """What it is, and whether colours are multiplied by it (D.3.6)."""
    if bits.flag():
        return _ALPHA, False
    kind = bits.enum()
    _depth(bits)
    bits.number((0, 0), (3, 0), (4, 0), (1, 3))  # how much smaller it is
    for _ in range(bits.number((0, 0), (0, 4), (16, 5), (48, 10))):  # its name
        bits.take(8)
    if kind == _ALPHA:
        return kind, bits.flag()
    if kind == 2:  # a spot colour
        bits.take(64)
    elif kind == 5:  # of a sensor's filters
        bits.number((1, 0), (0, 2), (3, 4), (19, 8))
    return kind, False


def contents(data: bytes) -> Contents:
    """What a JPEG XL file says.

    Raises:
        ImageError: it is an animation, its samples are of a kind that is not read, it is damaged,
            or what decodes it is not installed.
    """
    head = head_of(_codestream(data))
    if head.animated:
        raise ImageError("is an animation; expected one picture; convert it to WebP, GIF or PNG")
    if head.floats or head.bits > 16:
        kind = "floating-point" if head.floats else f"{head.bits}-bit"
        raise refuse_samples(f"{kind} samples")
    if head.others or head.premultiplied:
        raise refuse_samples("premultiplied alpha" if head.premultiplied else "more channels")
    found = partial(_metadata, data)
    if _in_libvips("load"):
        return Contents(data, metadata=found)
    unpack()
    decoded = _Decoded(data, head)
    sides = head.height, head.width, head.channels, head.sample_bytes
    return Contents(data, raw=Raw(*sides, decoded.samples, icc=decoded.profile), metadata=found)


def _codestream(data: bytes) -> bytes:
    """The codestream, or its beginning; empty where there is none."""
    if data.startswith(_START):
        return data[:4096]
    parts = (box for box in boxes(data) if box.name in (b"jxlc", b"jxlp"))
    found = b""
    for box in parts:
        found += box.content[4 if box.name == b"jxlp" else 0 :][:4096]
        if len(found) >= 4096:
            break
    return found


def _metadata(data: bytes) -> Metadata:
    """What stands beside the picture."""
    collector = Collector()
    for box in boxes(data) if not data.startswith(_START) else ():
        name, content = box.name, box.content
        if name == b"brob":
            name = content[:4]
            if name not in (b"Exif", b"xml "):
                continue
            try:
                content = _unpacked(content[4:])
            except ValueError as error:
                collector.leave_out("EXIF" if name == b"Exif" else "XMP", error)
                continue
        if name == b"Exif" and len(content) > 4:
            (start,) = struct.unpack_from(">I", content)
            collector.exif(content[4 + start :])
        elif name == b"xml ":
            collector.xmp(content)
    return collector.found


def _unpacked(content: bytes) -> bytes:
    """What Brotli made small.

    Raises:
        ValueError: it is damaged, or too large; or Brotli is not installed.
    """
    try:
        import brotli
    except ImportError:
        raise ValueError(f"it is compressed; pip install 'bidiffsr[{EXTRA}]'") from None
    unpacker = brotli.Decompressor()
    try:
        found = unpacker.process(content, output_buffer_limit=LARGEST)
    except brotli.error:
        raise ValueError("it cannot be unpacked") from None
    if not unpacker.is_finished():
        raise ValueError("it is cut short or too large")
    return found


def embed(file: BinaryIO, metadata: Metadata, dpi: Resolution) -> list[str]:
    """Put metadata into a file, in place of its own; returns a line for each part left out."""
    file.seek(0)
    data = file.read()
    block = metadata.exif if dpi is None else with_resolution(metadata.exif, dpi)
    more = [Box(b"Exif", bytes(4) + block)] if block else []
    more += [Box(b"xml ", metadata.xmp)] if metadata.xmp else []
    if data.startswith(_START):
        kept = [Box(b"jxlc", data)]
    else:
        kept = [box for box in boxes(data) if box.name not in (b"JXL ", b"ftyp", *_EMBEDDED)]
    level = [box for box in kept if box.name == b"jxll"]
    rest = [box for box in kept if box.name != b"jxll"]
    file.seek(0)
    file.write(_CONTAINER + b"".join(box.whole for box in (*level, *more, *rest)))
    file.truncate()
    others = [("IPTC", metadata.iptc), ("a comment", metadata.comments)]
    return [f"{what} is left out: {NAME} has no place for it" for what, held in others if held]


def _padded(data: bytes) -> bytes:
    """The same file, long enough for OpenImageIO to look at its start."""
    if len(data) >= _LEAST:
        return data
    data = _CONTAINER + Box(b"jxlc", data).whole if data.startswith(_START) else data
    return data + Box(b"skip", bytes(_LEAST)).whole


@dataclass
class _Decoded:
    """A file that OpenImageIO decodes."""

    data: bytes
    head: Head
    icc: bytes | None = None
    """The ICC profile, once `samples` has been called; None where it is sRGB."""

    def samples(self) -> NDArray[Any]:
        """(H, W, C) of uint8 or uint16, the whole range of it.

        Raises:
            ImageError: the file is damaged.
        """
        kind = f"uint{8 * self.head.sample_bytes}"
        found = decode([_padded(self.data)], ".jxl", kind, EXTRA, NAME)
        samples, described = found.samples, found.described
        sides = self.head.height, self.head.width, self.head.channels
        if samples is None or samples.reshape(sides[0], sides[1], -1).shape != sides:
            raise damaged(found.complaint or "its samples are not all there")
        profile = described.getattribute("ICCProfile")
        if tuple(described.getattribute("CICP") or ())[:2] not in _SRGB and profile is not None:
            self.icc = bytes(profile)
        return samples.reshape(sides)

    def profile(self) -> bytes | None:
        """See `icc`."""
        return self.icc


def unpack() -> None:
    """Make sure that something decodes such files.

    Raises:
        ImageError: nothing does, since it is not installed.
    """
    if not _in_libvips("load"):
        optional("OpenImageIO", EXTRA, NAME)


def pack() -> Pack | None:
    """What makes a file of a picture, where libvips does not.

    Raises:
        ImageError: nothing does, since it is not installed.
    """
    if _in_libvips("save"):
        return None
    return partial(_packed, optional("OpenImageIO", EXTRA, NAME))


def _packed(imageio: ModuleType, picture: pyvips.Image, compression: Compression) -> bytes:
    """The bytes of a file, without metadata but the profile.

    Raises:
        pyvips.Error: it cannot be encoded.
    """
    samples = picture.numpy().reshape(picture.height, picture.width, picture.bands)
    if picture.bands == 2:  # which it does not know
        samples = samples[..., [0, 0, 0, 1]]
    described = imageio.ImageSpec(
        picture.width, picture.height, samples.shape[2], samples.dtype.name
    )
    described.attribute("compression", f"jpegxl:{compression.quality}")
    described.attribute("jpegxl:effort", _EFFORT)
    profile = item(picture, "icc-profile-data", b"")
    if profile:
        kind = f"uint8[{len(profile)}]"
        described.attribute("ICCProfile", kind, np.frombuffer(profile, np.uint8))
    with tempfile.TemporaryDirectory(prefix="bidiffsr-") as folder:
        path = Path(folder, "picture.jxl")
        file = imageio.ImageOutput.create(str(path))
        done = file.open(str(path), described) and file.write_image(np.ascontiguousarray(samples))
        if not (file.close() and done):
            raise libvips().Error(str(file.geterror()))
        return path.read_bytes()


@cache
def _in_libvips(what: str) -> bool:
    return libvips().type_find("VipsOperation", f"jxl{what}_buffer") != 0
