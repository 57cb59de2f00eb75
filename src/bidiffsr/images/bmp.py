"""BMP: header, palette and samples, both ways.

Source: Microsoft, "Bitmap Structures" (BITMAPINFOHEADER, BITMAPV4HEADER) and "Bitmap Storage".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from bidiffsr.errors import ImageError
from bidiffsr.images.contents import Contents, Raw, damaged
from bidiffsr.images.image import from_float
from bidiffsr.images.metadata import Metadata, Resolution, without_place

_FILE_HEADER, _CORE_HEADER, _INFO_HEADER, _V4_HEADER = 14, 12, 40, 108
_PLAIN, _BIT_FIELDS, _ALPHA_FIELDS = 0, 3, 6  # compressions that are none
_DEPTHS = (1, 4, 8, 16, 24, 32)
_MASKS = {16: (0x7C00, 0x03E0, 0x001F, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0)}
_WITH_ALPHA = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
_SRGB = 0x73524742
_DPI_PER_METRE = 0.0254


@dataclass(frozen=True)
class _Head:
    """What stands before the samples."""

    start: int
    """Of the samples."""
    height: int
    width: int
    upright: bool
    """Whether the first row is the top one."""
    bits: int
    """Of a pixel."""
    masks: tuple[int, ...]
    """Of red, green, blue and alpha, where there is no palette."""
    palette: NDArray[np.uint8]
    """(N, 3), red first."""
    dpi: tuple[float, float] | None

    @property
    def row_bytes(self) -> int:
        return (self.width * self.bits + 31) // 32 * 4

    @property
    def grey(self) -> bool:
        return self.bits <= 8 and bool((self.palette == self.palette[:, :1]).all())

    @property
    def channels(self) -> int:
        return 1 if self.grey else 4 if self.bits > 8 and self.masks[3] else 3


def contents(data: bytes) -> Contents:
    """What the header of a BMP says.

    Raises:
        ImageError: it says nothing that can be followed, the samples are compressed, or they are
            not all there.
    """
    try:
        head = _head(data)
    except struct.error:
        raise damaged("its header is cut short") from None
    if len(data) < head.start + head.height * head.row_bytes:
        raise damaged("its samples are not all there")
    raw = Raw(
        *(head.height, head.width, head.channels, 1),
        lambda: _samples(data, head),
        dpi=head.dpi,
    )
    return Contents(data, raw=raw)


def _head(data: bytes) -> _Head:
    start, size = struct.unpack_from("<2I", data, 10)
    compression, across, down, used, masks = _PLAIN, 0, 0, 0, (0, 0, 0, 0)
    if size == _CORE_HEADER:
        width, height, _, bits = struct.unpack_from("<4H", data, 18)
    elif size >= _INFO_HEADER:
        width, height, _, bits, compression, _, across, down, used = struct.unpack_from(
            "<2i2H2I2iI", data, 18
        )
    else:
        raise damaged("its header is none")
    if bits not in _DEPTHS or width < 1 or height == 0:
        raise damaged("its sides or depth are none of a picture")
    if compression not in (_PLAIN, _BIT_FIELDS, _ALPHA_FIELDS):
        raise ImageError(
            f"a BMP file of an unsupported kind (compression {compression}); convert it"
        )
    palette_start = _FILE_HEADER + size
    if compression != _PLAIN and bits in _MASKS:
        held = 4 if size >= _INFO_HEADER + 16 or compression == _ALPHA_FIELDS else 3
        found = struct.unpack_from(f"<{held}I", data, _FILE_HEADER + _INFO_HEADER)
        masks = (*found, 0)[:4]
        for mask in masks:
            if not _is_mask(mask, bits):
                raise damaged("its masks are none")
    elif bits in _MASKS:
        masks = _MASKS[bits]
    elif bits == 24:
        masks = _MASKS[32]
    entry = 3 if size == _CORE_HEADER else 4
    count = min(used or 1 << bits, 1 << bits) if bits <= 8 else 0
    entries = np.frombuffer(data[palette_start : palette_start + count * entry], np.uint8)
    if len(entries) < count * entry:
        raise damaged("its palette is cut short")
    dpi = None
    if across > 0 and down > 0:
        dpi = round(across * _DPI_PER_METRE, 1), round(down * _DPI_PER_METRE, 1)
    palette = entries.reshape(count, entry)[:, 2::-1]
    return _Head(start, abs(height), width, height < 0, bits, masks, palette, dpi)


def _is_mask(mask: int, bits: int) -> bool:
    """Whether its ones stand together."""
    low = mask & -mask
    return mask >> bits == 0 and (mask == 0 or (mask // low + 1) & (mask // low) == 0)


def _samples(data: bytes, head: _Head) -> NDArray[np.uint8]:
    count = head.height * head.row_bytes
    rows = np.frombuffer(data, np.uint8, count, head.start).reshape(head.height, head.row_bytes)
    rows = rows if head.upright else rows[::-1]
    if head.bits <= 8:
        indices = _unpacked(rows, head.bits)[:, : head.width]
        if indices.max() >= len(head.palette):
            raise damaged("a sample is not in the palette")
        return head.palette[:, : head.channels][indices]
    if head.bits == 24:
        return rows[:, : 3 * head.width].reshape(head.height, head.width, 3)[..., ::-1]
    words = np.ascontiguousarray(rows).view("<u2" if head.bits == 16 else "<u4")[:, : head.width]
    found = np.empty((head.height, head.width, head.channels), np.uint8)
    for channel in range(head.channels):
        mask = head.masks[channel]
        low = mask & -mask or 1
        most = mask // low
        # Of no more than 8 bits all values have a step; of more the upper 8 are taken.
        down = max(0, most.bit_length() - 8)
        values = (words & mask) // (low << down)
        steps = np.arange((most >> down) + 1) / max(most >> down, 1)
        found[..., channel] = from_float(steps, np.uint8)[values]
    return found


def _unpacked(rows: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Samples of 1, 4 or 8 bits, the first in the highest bits of a byte."""
    if bits == 8:
        return rows
    shifts = np.arange(8 - bits, -1, -bits, dtype=np.uint8)
    indices = rows[..., None] >> shifts & np.uint8((1 << bits) - 1)
    return indices.reshape(len(rows), -1).astype(np.uint8, copy=False)


def write(file: BinaryIO, strips: Iterator[NDArray[np.uint8]], height: int, width: int) -> None:
    """Write a BMP of samples (H, W, 1), (H, W, 3) or (H, W, 4), and grey with alpha as the last."""
    row_bytes = start = 0
    end = 0
    for number, samples in enumerate(strips):
        channels = samples.shape[2]
        if channels == 2:
            samples, channels = samples[..., [0, 0, 0, 1]], 4
        if number == 0:
            row_bytes = (width * channels + 3) // 4 * 4
            header = _header(height, width, channels, height * row_bytes)
            file.write(header)
            start = len(header)
            end = start + height * row_bytes
        rows = np.zeros((len(samples), row_bytes), np.uint8)
        order = [2, 1, 0, 3][:channels] if channels > 1 else [0]
        rows[:, : width * channels] = samples[..., order].reshape(len(samples), -1)
        end -= rows.size  # the last row comes first
        file.seek(end)
        file.write(rows[::-1].tobytes())


def embed(file: BinaryIO, metadata: Metadata, dpi: Resolution) -> list[str]:
    """Put dots per inch into a file; returns a line for each part of the metadata."""
    if dpi is not None:
        file.seek(38)
        file.write(struct.pack("<2i", *(round(number / _DPI_PER_METRE) for number in dpi)))
    return without_place(metadata, "BMP")


def _header(height: int, width: int, channels: int, size: int) -> bytes:
    alpha, grey = channels == 4, channels == 1
    length = _V4_HEADER if alpha else _INFO_HEADER
    palette = b"".join(bytes([level, level, level, 0]) for level in range(256)) if grey else b""
    start = _FILE_HEADER + length + len(palette)
    info = struct.pack(
        *("<I2i2H2I2i2I", length, width, height, 1, 8 * channels),
        *(_BIT_FIELDS if alpha else _PLAIN, size, 0, 0, 256 if grey else 0, 0),
    )
    if alpha:
        info += struct.pack("<5I", *_WITH_ALPHA, _SRGB).ljust(length - len(info), b"\0")
    return struct.pack("<2sI4xI", b"BM", start + size, start) + info + palette
