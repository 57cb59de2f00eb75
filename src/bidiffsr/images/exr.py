"""OpenEXR: pictures of linear light, 1 being white. Its own header, and files of half floats.

OpenImageIO (the extra `exr`) decodes the samples. libvips does not, even where it knows the format:
it goes by an interface of OpenEXR that hands out half floats alone, and no chromaticities.

Sources: OpenEXR's "File Layout" and "Technical Introduction" (openexr.com) for header, blocks and
alpha; the order and differences of bytes under ZIP as its library has them.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bidiffsr.errors import ImageError
from bidiffsr.images.colours import light_of, rgb_encoding
from bidiffsr.images.contents import Contents, Raw, check_light, damaged, from_light, refuse_samples
from bidiffsr.images.extras import optional
from bidiffsr.images.image import from_float, to_float, unpremultiply
from bidiffsr.images.metadata import Metadata, Resolution, without_place
from bidiffsr.images.openimageio import decode

NAME, EXTRA = "OpenEXR", "exr"

_MAGIC = b"v/1\x01"
_VERSION = 2
_TILED, _LONG_NAMES, _DEEP, _PARTS = 0x200, 0x400, 0x800, 0x1000
_HALF, _FLOAT = 1, 2
# Without alpha, and in the order that they have in a picture.
_COLOURS = (("R", "G", "B"), ("Y",))
# Rows of a block, by compression: none, RLE, ZIPS, ZIP, PIZ, PXR24, B44, B44A, DWAA, DWAB. HTJ2K,
# which follows, is not read: its decoder fills in what is lost, and says so on standard output.
_BLOCK_ROWS = (1, 1, 1, 16, 32, 16, 32, 32, 32, 256)
_ZIP, _ZIP_ROWS, _ZIP_LEVEL = 3, 16, 4
_LOSSY = (6, 7, 8, 9)
_KINDS = {  # of what a decoder is told, the type and the number of bytes
    b"channels": (b"chlist", None),
    b"compression": (b"compression", 1),
    b"dataWindow": (b"box2i", 16),
    b"displayWindow": (b"box2i", 16),
    b"lineOrder": (b"lineOrder", 1),
    b"pixelAspectRatio": (b"float", 4),
    b"screenWindowCenter": (b"v2f", 8),
    b"screenWindowWidth": (b"float", 4),
}
_TILES = {b"tiles": (b"tiledesc", 9)}
_BESIDE = {
    b"chromaticities": (b"chromaticities", 32),
    b"colorInteropID": (b"string", None),
    b"xDensity": (b"float", 4),
}
_MOST_ATTRIBUTES, _MOST_CHANNELS = 10_000, 64
_LONGEST_NAME = 255
_LARGEST_SIDE = 10_000_000
_BLOCKS_AT_ONCE = 1 << 16
_PIXELS_AT_ONCE = 1 << 18
_LARGEST_TILE = 1 << 24  # pixels, if that is more than the picture has
_USUAL_DENSITY = 72.0  # which claims nothing
# Of what is associated, by which light may exceed alpha where both have been made half floats.
_ROUNDING, _SMALLEST = 2.0**-10, 2.0**-24
# Beside the edges of white and of black, lossy files go beyond them by less than this.
_OVERSHOOT = 1 / 16


@dataclass(frozen=True)
class _Head:
    """What the header says.

    Attributes:
        left, top: the first column and row of the data window.
        height, width: of both windows, in pixels.
        channels: names in the order of a picture: R, G and B or Y, and perhaps A.
        compression: its number.
        tile: its height and width; None: rows.
        chromaticities: x and y of white, red, green and blue; None: those of Rec. 709.
        dpi: dots per inch, across and down; None where nothing is said of them.
        whole: the same header, of the same length, with nothing that pixels do not depend on.
    """

    left: int
    top: int
    height: int
    width: int
    channels: tuple[str, ...]
    compression: int
    tile: tuple[int, int] | None
    chromaticities: tuple[float, ...] | None
    dpi: tuple[float, float] | None
    whole: bytes


def contents(data: bytes) -> Contents:
    """What an OpenEXR file says.

    Colours of other primaries become Rec. 709's, clipped to them; what is associated with alpha
    is divided by it. Of lossy files, what lies just beyond white or black is clipped.

    Raises:
        ImageError: it is of several parts, deep, or of other channels or samples than are read; its
            windows differ; it is damaged or cut short; or what decodes it is not installed. Later,
            where light is beyond white or below black.
    """
    head = _head_of(data)
    _check_blocks(data, head)
    unpack()
    samples = partial(_samples, data, head)
    return Contents(
        data, raw=Raw(head.height, head.width, len(head.channels), 2, samples, dpi=head.dpi)
    )


def unpack() -> None:
    """Make sure that what decodes such files is there.

    Raises:
        ImageError: it is not installed.
    """
    optional("OpenImageIO", EXTRA, NAME)


def _head_of(data: bytes) -> _Head:
    """The header of a file, every number of which is checked."""
    if len(data) < 8:
        raise damaged("its header is cut short")
    (flags,) = struct.unpack_from("<I", data, 4)
    if flags & (_PARTS | _DEEP):
        raise refuse_samples("several parts" if flags & _PARTS else "deep samples")
    if flags & ~(_TILED | _LONG_NAMES) != _VERSION:
        raise ImageError(f"is OpenEXR of an unknown version ({flags:#x}); expected 2; convert it")
    found, end = _attributes(data)
    wanted = _KINDS | (_TILES if flags & _TILED else {})
    for name, (kind, size) in (wanted | _BESIDE).items():
        if name not in found and name in _BESIDE:
            continue
        if name not in found or found[name][0] != kind or size not in (None, len(found[name][1])):
            raise damaged(f"its {name.decode()} is missing or none")
    if found.get(b"type", (b"", b""))[1] not in (b"", b"scanlineimage", b"tiledimage"):
        raise refuse_samples("samples that are no picture's")
    values = {name: found[name][1] for name in found}
    left, top, height, width = _windows(values[b"dataWindow"], values[b"displayWindow"])
    compression = values[b"compression"][0]
    if compression >= len(_BLOCK_ROWS):
        raise ImageError(
            f"is compressed in a way that is not read (number {compression}); expected one that "
            "OpenEXR 3.3 knows, such as ZIP; convert it"
        )
    kept = b"".join(_attribute(name, *found[name]) for name in sorted(wanted))
    return _Head(
        *(left, top, height, width, _channels(values[b"channels"]), compression),
        tile=_tile(values[b"tiles"], height * width) if flags & _TILED else None,
        chromaticities=_chromaticities(
            values.get(b"chromaticities"), values.get(b"colorInteropID", b"")
        ),
        dpi=_density(values[b"pixelAspectRatio"], values.get(b"xDensity")),
        whole=data[:8] + kept + _padding(end - 8 - len(kept) - 1) + b"\0",
    )


def _attributes(data: bytes) -> tuple[dict[bytes, tuple[bytes, bytes]], int]:
    """Type and value of each attribute by its name, and where the header ends."""
    found: dict[bytes, tuple[bytes, bytes]] = {}
    at = 8
    while data[at : at + 1] != b"\0":
        name, at = _text(data, at)
        kind, at = _text(data, at)
        if at + 4 > len(data):
            raise damaged("its header is cut short")
        (size,) = struct.unpack_from("<i", data, at)
        at += 4
        if not 0 <= size <= len(data) - at or name in found:
            raise damaged("its header is cut short or says a thing twice")
        found[name] = kind, data[at : at + size]
        at += size
        if len(found) > _MOST_ATTRIBUTES:
            raise damaged("its header has no end")
    return found, at + 1


def _text(data: bytes, at: int) -> tuple[bytes, int]:
    """A name that is not empty, and where it ends."""
    end = data.find(b"\0", at, at + _LONGEST_NAME + 1)
    if end <= at:
        raise damaged("its header is cut short or none")
    return data[at:end], end + 1


def _attribute(name: bytes, kind: bytes, value: bytes) -> bytes:
    return name + b"\0" + kind + b"\0" + struct.pack("<i", len(value)) + value


def _padding(size: int) -> bytes:
    """An attribute of so many bytes; what was left out has been one, so that there is room."""
    smallest = len(_attribute(b"x", b"y", b""))
    return _attribute(b"x", b"y", bytes(size - smallest)) if size else b""


def _windows(data_window: bytes, display_window: bytes) -> tuple[int, int, int, int]:
    """Left, top, height and width of both windows."""
    if data_window != display_window:
        raise refuse_samples(
            f"samples of the window {struct.unpack('<4i', data_window)}, of which "
            f"{struct.unpack('<4i', display_window)} is to be shown"
        )
    left, top, right, bottom = struct.unpack("<4i", data_window)
    height, width = bottom - top + 1, right - left + 1
    if not (1 <= height <= _LARGEST_SIDE and 1 <= width <= _LARGEST_SIDE):
        raise damaged("its sides are none of a picture")
    return left, top, height, width


def _channels(listed: bytes) -> tuple[str, ...]:
    """Names in the order of a picture."""
    kinds: dict[str, tuple[int, ...]] = {}
    at = 0
    while listed[at : at + 1] != b"\0" and len(kinds) < _MOST_CHANNELS:
        name, at = _text(listed, at)
        if at + 16 > len(listed):
            raise damaged("its channels are cut short")
        kinds[name.decode("latin-1")] = struct.unpack_from("<iB3x2i", listed, at)
        at += 16
    expected = (*_COLOURS, *((*colours, "A") for colours in _COLOURS))
    order = next((names for names in expected if set(names) == set(kinds)), None)
    if order is None:
        names = ", ".join(ascii(name)[1:-1] for name in kinds) or "none"
        raise refuse_samples(f"other channels than R, G, B or Y, and A ({names[:100]})")
    if not {kind for kind, *_ in kinds.values()} <= {_HALF, _FLOAT}:
        raise refuse_samples("whole numbers in OpenEXR, which say no range")
    if {(across, down) for *_, across, down in kinds.values()} != {(1, 1)}:
        raise refuse_samples("channels of less resolution than the picture")
    return order


def _tile(described: bytes, pixels: int) -> tuple[int, int]:
    """Height and width of a tile."""
    width, height, _ = struct.unpack("<2IB", described)
    if not (height and width and height * width <= max(pixels, _LARGEST_TILE)):
        raise damaged("its tiles are none")
    return height, width


def _chromaticities(described: bytes | None, space: bytes) -> tuple[float, ...] | None:
    """White first, as `rgb_encoding` has them; `space` names what they should be, if anything."""
    known = b"lin_rec709_" if described is None else b"lin_"
    if space not in (b"", b"unknown") and not space.startswith(known):
        raise refuse_samples(f"colours of {ascii(space.decode('latin-1'))[1:-1][:60]}")
    if described is None:
        return None
    points = struct.unpack("<8f", described)
    if not max(map(abs, points)) <= 10 or not all(map(math.isfinite, points)):
        raise damaged("its chromaticities are none")
    return *points[6:], *points[:6]


def _density(ratio: bytes, across: bytes | None) -> tuple[float, float] | None:
    """Dots per inch; down, they are those across times the ratio of a pixel's width to height."""
    (shape,) = struct.unpack("<f", ratio)
    (dots,) = (_USUAL_DENSITY,) if across is None else struct.unpack("<f", across)
    if not 1e-3 <= shape <= 1e3:
        raise damaged("the shape of its pixels is none")
    if not 1 <= dots <= 1e6:
        dots = _USUAL_DENSITY
    return None if across is None and shape == 1 else (dots, dots * shape)


def _check_blocks(data: bytes, head: _Head) -> None:
    """Make sure that the table of offsets leads to every block of the picture, each a whole one.

    Of several levels of resolution, the first comes first in the table, and is the picture.
    """
    down = -(-head.height // (head.tile[0] if head.tile else _BLOCK_ROWS[head.compression]))
    across = -(-head.width // head.tile[1]) if head.tile else 1
    start, count = len(head.whole), down * across
    if start + 8 * count > len(data):
        raise damaged("its table of offsets is not all there")
    offsets = np.frombuffer(data, "<u8", count, start)
    for first in range(0, count, _BLOCKS_AT_ONCE):
        numbers = np.arange(first, min(count, first + _BLOCKS_AT_ONCE), dtype=np.int64)
        y, x = np.divmod(numbers, across)
        if head.tile is None:
            wanted = (y * _BLOCK_ROWS[head.compression] + head.top)[:, None]
        else:
            wanted = np.stack([x, y, 0 * x, 0 * x], axis=1)
        _check_some(data, offsets[numbers], wanted, start + 8 * count)


def _check_some(
    data: bytes, offsets: NDArray[np.uint64], wanted: NDArray[np.int64], least: int
) -> None:
    """Make sure of blocks that begin at or behind `least`, and say these places of themselves."""
    length = 4 * (wanted.shape[1] + 1)  # of what stands before a block: its place, and its bytes
    if offsets.min() < least or offsets.max() > len(data) - length:
        raise damaged("a block of its samples is missing")
    places = offsets.astype(np.int64)
    before = np.frombuffer(data, np.uint8)[places[:, None] + np.arange(length)]
    said = before.view("<i4").astype(np.int64)
    sizes = said[:, -1]
    if (said[:, :-1] != wanted).any():
        raise damaged("its table of offsets leads elsewhere")
    if (sizes < 0).any() or (places + length + sizes > len(data)).any():
        raise damaged("a block of its samples is cut short")


def _samples(data: bytes, head: _Head) -> NDArray[np.uint16]:
    """Samples (H, W, C) in sRGB, the whole range of uint16; alpha, if there is one, comes last.

    Raises:
        ImageError: the file is damaged; or light is beyond white, below black or more than alpha.
    """
    light = _decoded(data, head)
    slack = _OVERSHOOT if head.compression in _LOSSY else _SMALLEST
    if light.min() >= -slack and light.max() <= 1 + slack:
        np.clip(light, 0, 1, out=light)
    alpha = light[..., 1 if head.channels[0] == "Y" else 3 :]
    check_light(light[..., : light.shape[2] - alpha.shape[2]])
    if not (alpha.size == 0 or (alpha.min() >= 0 and alpha.max() <= 1)):
        raise refuse_samples("alpha below 0 or above 1")
    samples = np.empty(light.shape, np.uint16)
    rows = max(1, _PIXELS_AT_ONCE // head.width)
    for row in range(0, head.height, rows):
        some = slice(row, row + rows)
        samples[some] = _straight(light[some], head, slack)
    return samples


def _straight(light: NDArray[np.float32], head: _Head, slack: float) -> NDArray[np.uint16]:
    """Samples in sRGB of linear light in [0, 1], which may exceed its alpha by `slack`."""
    colours, alpha = np.split(light, [1 if head.channels[0] == "Y" else 3], axis=2)
    if alpha.size:
        if (colours > alpha * np.float32(1 + _ROUNDING) + np.float32(slack)).any():
            raise refuse_samples("light of more than its alpha, as flames may have it")
        colours = unpremultiply(colours, alpha[..., 0])
    encoding = None if head.chromaticities is None else rgb_encoding(1.0, head.chromaticities)
    if encoding is not None and encoding.matrix is not None and colours.shape[2] == 3:
        matrix = np.array(encoding.matrix, np.float32)
        colours = np.clip(colours @ matrix.T, 0, 1)
    return np.concatenate([from_light(colours), from_float(alpha, np.uint16)], axis=2)


def _decoded(data: bytes, head: _Head) -> NDArray[np.float32]:
    """What the channels hold, (H, W, C), in the order of `head.channels`."""
    pieces = [head.whole, memoryview(data)[len(head.whole) :]]
    found = decode(pieces, ".exr", "float", EXTRA, NAME)
    light, why = found.samples, found.complaint
    names = tuple(found.described.channelnames)
    shape = head.height, head.width, len(head.channels)
    if light is None or why or light.size != math.prod(shape) or {*names} != {*head.channels}:
        raise damaged(why or "its samples are not all there")
    order = [names.index(name) for name in head.channels]
    light = light.reshape(shape)
    return light if order == sorted(order) else light[..., order]


def write(file: BinaryIO, strips: Iterator[NDArray[Any]], height: int, width: int) -> None:
    """Write a file of half floats, compressed by ZIP, of samples in sRGB.

    Args:
        file: open for writing, at its start.
        strips: the samples (H, W, 1) to (H, W, 4), uint8 or uint16, some rows at a time.
        height: of all of them.
        width: of each.
    """
    offsets: list[int] = []
    table = 0
    for first, samples in enumerate(_regrouped(strips)):
        names = {1: "Y", 2: "YA", 3: "RGB", 4: "RGBA"}[samples.shape[2]]
        order = [names.index(name) for name in sorted(names)]
        if first == 0:
            file.write(_header(sorted(names), height, width))
            table = file.tell()
            file.write(bytes(8 * -(-height // _ZIP_ROWS)))
        offsets.append(file.tell())
        light = _associated(samples)[..., order]
        # Row by row, and in each row channel by channel.
        packed = _packed(np.moveaxis(light, 2, 1).tobytes())
        file.write(struct.pack("<2i", first * _ZIP_ROWS, len(packed)) + packed)
    file.seek(table)
    file.write(struct.pack(f"<{len(offsets)}Q", *offsets))
    file.seek(0, io.SEEK_END)


def _regrouped(strips: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """The same rows, as many at a time as a block has; fewer at the end."""
    kept: NDArray[Any] | None = None
    for strip in strips:
        kept = strip if kept is None else np.concatenate([kept, strip])
        while len(kept) >= _ZIP_ROWS:
            yield kept[:_ZIP_ROWS]
            kept = kept[_ZIP_ROWS:]
    if kept is not None and len(kept):
        yield kept


def _header(names: list[str], height: int, width: int) -> bytes:
    channels = b"".join(
        name.encode() + b"\0" + struct.pack("<iB3x2i", _HALF, 0, 1, 1) for name in names
    )
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    values = {
        b"channels": channels + b"\0",
        b"compression": bytes([_ZIP]),
        b"dataWindow": window,
        b"displayWindow": window,
        b"lineOrder": b"\0",
        b"pixelAspectRatio": struct.pack("<f", 1),
        b"screenWindowCenter": struct.pack("<2f", 0, 0),
        b"screenWindowWidth": struct.pack("<f", 1),
    }
    said = b"".join(_attribute(name, _KINDS[name][0], value) for name, value in values.items())
    said += _attribute(b"xDensity", b"float", struct.pack("<f", _USUAL_DENSITY))
    return _MAGIC + struct.pack("<I", _VERSION) + said + b"\0"


def _associated(samples: NDArray[Any]) -> NDArray[np.float16]:
    """Light and alpha of samples, the one multiplied by the other."""
    colours = samples.shape[2] if samples.shape[2] in (1, 3) else samples.shape[2] - 1
    values = to_float(samples).astype(np.float64)
    alpha = values[..., colours:]
    light = light_of(values[..., :colours])
    if alpha.size:
        light = np.concatenate([light * alpha, alpha], axis=2)
    return light.astype("<f2")


def _packed(raw: bytes) -> bytes:
    """The bytes of a block under ZIP, which stay as they are where it would not shorten them."""
    plain = np.frombuffer(raw, np.uint8)
    halves = np.concatenate([plain[::2], plain[1::2]])
    differences = halves.copy()
    differences[1:] -= halves[:-1]
    differences[1:] += 128
    packed = zlib.compress(differences.tobytes(), _ZIP_LEVEL)
    return packed if len(packed) < len(raw) else raw


def embed(file: BinaryIO, metadata: Metadata, dpi: Resolution) -> list[str]:
    """Put the resolution into a file that `write` made.

    Returns:
        A line for each part of the metadata, for which there is no place.
    """
    if dpi is not None:
        across, down = dpi
        file.seek(0)
        header = file.read(1 << 10)
        for name, value in ((b"pixelAspectRatio", down / across), (b"xDensity", across)):
            start = _attribute(name, b"float", bytes(4))[:-4]
            file.seek(header.index(start) + len(start))
            file.write(struct.pack("<f", value))
    return without_place(metadata, NAME)
