"""PNG and TIFF files by hand, also such as no writer at hand makes, for the tests of reading."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from bidiffsr.errors import ImageError
from bidiffsr.images import decode_image

Tags = Mapping[int, Sequence[Any] | bytes]
Page = tuple[Mapping[int, Any], bytes]

NONE: Tags = MappingProxyType({})

BITS, COMPRESSION, PHOTOMETRIC, SAMPLES = 258, 259, 262, 277
SUBFILE, PLANAR, PALETTE, INK_SET, EXTRA, SAMPLE_FORMAT = 254, 284, 320, 332, 338, 339
WHITE_POINT, PRIMARIES, PROFILE = 318, 319, 34675


def chunk(name: bytes, content: bytes) -> bytes:
    """A PNG chunk, its length and checksum included."""
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def png(samples: NDArray[Any], *before: bytes, after: bytes = b"") -> bytes:
    """A PNG of (H, W) or (H, W, C) uint8 or uint16, with chunks before and behind its pixels."""
    height, width, *rest = samples.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[rest[0] if rest else 1]
    header = struct.pack(">2I5B", width, height, samples.itemsize * 8, colour_type, 0, 0, 0)
    big_endian = samples.astype(samples.dtype.newbyteorder(">"))
    rows = b"".join(b"\0" + row.tobytes() for row in big_endian)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    parts = (chunk(b"IHDR", header), *before, pixels, after, chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def pack_bits(samples: NDArray[np.uint8], bits: int) -> bytes:
    """Rows (H, N) of samples of 1, 2, 4 or 8 bits, the first in the highest bits of a byte."""
    planes = samples[..., None] >> np.arange(bits - 1, -1, -1) & 1
    return np.packbits(planes.reshape(len(samples), -1).astype(np.uint8), axis=1).tobytes()


def page(samples: NDArray[Any], photometric: int, tags: Tags = NONE) -> Page:
    """One picture of a TIFF, (H, W) or (H, W, C), uncompressed: its tags and its strip.

    Args:
        samples: unsigned, signed or floating samples.
        photometric: see the TIFF specification: 0 white is 0, 1 black is 0, 2 RGB, 3 palette ...
        tags: further tags, or others; with `BITS` below 8, the samples are packed.
    """
    height, width, *rest = samples.shape
    channels = rest[0] if rest else 1
    bits = int(tags[BITS][0]) if BITS in tags else samples.itemsize * 8
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    data = (
        pack_bits(samples.reshape(height, -1), bits)
        if bits < 8
        else samples.astype(samples.dtype.newbyteorder("<")).tobytes()
    )
    found = {256: [width], 257: [height], BITS: [bits] * channels, COMPRESSION: [1]}
    found |= {PHOTOMETRIC: [photometric], SAMPLES: [channels], 278: [height], PLANAR: [1]}
    if kind != 1:
        found[SAMPLE_FORMAT] = [kind] * channels
    return {**found, **tags}, data


def tiff(*pages: Page, big_endian: bool = False) -> bytes:
    """A TIFF of these pages, each from `page`."""
    order = ">" if big_endian else "<"
    file = bytearray((b"MM\0*" if big_endian else b"II*\0") + bytes(4))
    link = 4  # where the offset of the next directory belongs
    for tags, data in pages:
        strip = len(file)
        if big_endian and tags[BITS][0] == 16:
            data = np.frombuffer(data, "<u2").astype(">u2").tobytes()
        file += data + bytes(len(data) % 2)
        entries = []
        for tag, value in sorted({**tags, 273: [strip], 279: [len(data)]}.items()):
            kind, count, content = _field(tag, value, order)
            if len(content) > 4:
                content, position = struct.pack(f"{order}I", len(file)), content
                file += position + bytes(len(position) % 2)
            entries.append(struct.pack(f"{order}HHI", tag, kind, count) + content.ljust(4, b"\0"))
        struct.pack_into(f"{order}I", file, link, len(file))
        file += struct.pack(f"{order}H", len(entries)) + b"".join(entries)
        link = len(file)
        file += bytes(4)
    return bytes(file)


def _field(tag: int, value: Sequence[Any] | bytes, order: str) -> tuple[int, int, bytes]:
    """A tag's type, count and bytes: bytes, fractions, or shorts where they fit, else longs."""
    if isinstance(value, bytes):
        return 7, len(value), value
    count = len(value)
    if tag in (WHITE_POINT, PRIMARIES):
        pairs = [(round(number * 1_000_000), 1_000_000) for number in value]
        return 5, count, b"".join(struct.pack(f"{order}2I", *pair) for pair in pairs)
    if max(value) < 65536 and tag not in (273, 279):
        return 3, count, struct.pack(f"{order}{count}H", *value)
    return 4, count, struct.pack(f"{order}{count}I", *value)


def xmp_of_gif(data: bytes) -> bytes:
    """The packet in a GIF, by XMP part 3, section 1.1.2, up to the bytes that end it."""
    start = data.index(b"\x21\xff\x0bXMP DataXMP") + 14
    end = data.index(b"\x01" + bytes(range(255, -1, -1)) + b"\0", start)
    assert b"\0" not in data[start:end]
    return data[start:end]


def smooth(channels: int = 3, height: int = 20, width: int = 32) -> Any:
    """Ramps of uint8, (H, W, C), which lossy formats hardly change."""
    y, x = np.mgrid[:height, :width]
    ramps = [7 * y + x, 5 * x + 30, 200 - 4 * y, 8 * x]
    return np.stack(ramps[:channels], axis=2).astype(np.uint8)


def opened(data: bytes) -> PIL.Image.Image:
    """A file as another program reads it."""
    with PIL.Image.open(io.BytesIO(data)) as found:
        found.load()
        return found.copy()


def check_damage(whole: bytes, *, tries: int, end: int | None = None) -> None:
    """Turn three bits from byte 12 on, again and again: it is refused in one line, or read.

    Args:
        whole: a file.
        tries: how often.
        end: the byte before which they lie; None: the file's end.
    """
    chance = np.random.default_rng(1)
    refused = 0
    for _ in range(tries):
        data = bytearray(whole)
        for place in chance.integers(12, end or len(data), 3):
            data[place] ^= 1 << int(chance.integers(8))
        try:
            decode_image(bytes(data), max_pixels=10_000)
        except ImageError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 5
