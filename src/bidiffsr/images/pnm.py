"""Netpbm's formats and PFM: headers and samples, both ways.

Sources: the manual pages pgm(5), ppm(5) and pam(5) of Netpbm, and pfm(5) for PFM, whose samples are
linear light, 1 being white.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from bidiffsr.images.colours import light_of
from bidiffsr.images.contents import Contents, Raw, damaged, from_light, refuse_samples
from bidiffsr.images.image import from_float, to_float
from bidiffsr.images.metadata import Metadata, Resolution, without_place

_TOKEN = re.compile(rb"(?:\s+|#[^\n\r]*)*([^\s#]+)")
_LINE = re.compile(rb"[ \t]*(?:#[^\n]*|(\w+)[ \t]*([^\n]*?)[ \t]*)\n")
_CHANNELS = {b"P5": 1, b"P6": 3, b"P2": 1, b"P3": 3, b"Pf": 1, b"PF": 3}
_TUPLES = {
    **{"BLACKANDWHITE": 1, "GRAYSCALE": 1, "RGB": 3},
    **{"BLACKANDWHITE_ALPHA": 2, "GRAYSCALE_ALPHA": 2, "RGB_ALPHA": 4},
}
_TUPLE_NAMES = {1: "GRAYSCALE", 2: "GRAYSCALE_ALPHA", 3: "RGB", 4: "RGB_ALPHA"}
_PLAIN = (b"P2", b"P3")
_LARGEST_SIDE = 10_000_000
_LONGEST_HEADER = 1 << 16


@dataclass(frozen=True)
class _Head:
    """What stands before the samples."""

    height: int
    width: int
    channels: int
    white: float
    """The largest sample; of PFM its scale, whose sign tells the byte order."""
    end: int
    """Where the samples begin."""


def contents(data: bytes) -> Contents:
    """What the header of a PGM, PPM or PAM says.

    Raises:
        ImageError: it says nothing that can be followed, or the samples are not all there.
    """
    head = _pam_head(data) if data.startswith(b"P7") else _head(data)
    if not 1 <= head.white <= 65535:
        raise damaged("its largest sample is not between 1 and 65535")
    dtype = np.dtype(np.uint8 if head.white < 256 else ">u2")
    plain = data[:2] in _PLAIN
    _check_length(data, head, 2 if plain else dtype.itemsize)

    def samples() -> NDArray[Any]:
        count = head.height * head.width * head.channels
        if plain:
            found = _plain(data[head.end :], count)
        else:
            found = np.frombuffer(data, dtype, count, head.end)
        if found.max() > head.white:
            raise damaged("a sample is larger than the largest")
        white = 255 if head.white < 256 else 65535
        wide = found.astype(np.uint16 if white > 255 else np.uint8)
        if head.white != white:
            steps = from_float(np.arange(int(head.white) + 1) / head.white, wide.dtype)
            wide = steps[wide]
        return wide.reshape(head.height, head.width, head.channels)

    raw = Raw(head.height, head.width, head.channels, 1 if head.white < 256 else 2, samples)
    return Contents(data, raw=raw)


def float_contents(data: bytes) -> Contents:
    """What the header of a PFM says.

    Raises:
        ImageError: see ``contents``; later, where light is beyond white or below black.
    """
    head = _head(data)
    if not np.isfinite(head.white) or head.white == 0:
        raise damaged("its scale is no number but 0")
    _check_length(data, head, 4)
    dtype = np.dtype("<f4" if head.white < 0 else ">f4")

    def samples() -> NDArray[Any]:
        shape = head.height, head.width, head.channels
        light = np.frombuffer(data, dtype, int(np.prod(shape)), head.end).reshape(shape)[::-1]
        return from_light(light)

    return Contents(data, raw=Raw(head.height, head.width, head.channels, 2, samples))


def _head(data: bytes) -> _Head:
    found: list[bytes] = []
    at = 2
    while len(found) < 3:
        token = _TOKEN.match(data, at, _LONGEST_HEADER)
        if token is None:
            raise damaged("its header is none")
        found.append(token[1])
        at = token.end()
    try:
        width, height = int(found[0]), int(found[1])
        white = float(found[2]) if data[1:2] in b"fF" else int(found[2])
    except ValueError:
        raise damaged("its header is none") from None
    return _checked(_Head(height, width, _CHANNELS[data[:2]], white, at + 1))


def _pam_head(data: bytes) -> _Head:
    found: dict[str, str] = {}
    at = data.find(b"\n") + 1
    while at and "ENDHDR" not in found:
        line = _LINE.match(data, at, _LONGEST_HEADER)
        if line is None:
            raise damaged("its header is none")
        if line[1]:
            found[line[1].decode("latin-1")] = line[2].decode("latin-1")
        at = line.end()
    try:
        sizes = [int(found[name]) for name in ("HEIGHT", "WIDTH", "DEPTH", "MAXVAL")]
    except (KeyError, ValueError):
        raise damaged("its header is none") from None
    kind = found.get("TUPLTYPE", _TUPLE_NAMES.get(sizes[2], ""))
    if _TUPLES.get(kind) != sizes[2]:
        raise refuse_samples(f"{sizes[2]} samples for each pixel of the kind {kind[:40]!r}")
    return _checked(_Head(sizes[0], sizes[1], sizes[2], sizes[3], at))


def _checked(head: _Head) -> _Head:
    if not (1 <= head.height <= _LARGEST_SIDE and 1 <= head.width <= _LARGEST_SIDE):
        raise damaged("its sides are none of a picture")
    return head


def _check_length(data: bytes, head: _Head, sample_bytes: int) -> None:
    needed = head.height * head.width * head.channels * sample_bytes
    # The last of plain samples has no space behind it.
    if len(data) - head.end < needed - (sample_bytes == 2 and data[:2] in _PLAIN):
        raise damaged("its samples are not all there")


def _plain(text: bytes, count: int) -> NDArray[Any]:
    words = text.split(None, count)[:count]
    try:
        found = np.array(words).astype(np.int64)
    except (ValueError, OverflowError):
        raise damaged("a sample is no number") from None
    if len(found) < count or found.min() < 0:
        raise damaged("its samples are not all there")
    return found


def write_ppm(file: BinaryIO, strips: Iterator[NDArray[Any]], height: int, width: int) -> None:
    """Write a PPM of samples (H, W, 1) or (H, W, 3), uint8 or uint16; grey becomes RGB."""
    _write_pnm(
        file, "P6", (np.broadcast_to(one, (*one.shape[:2], 3)) for one in strips), height, width
    )


def write_pgm(file: BinaryIO, strips: Iterator[NDArray[Any]], height: int, width: int) -> None:
    """Write a PGM of samples (H, W, 1), uint8 or uint16."""
    _write_pnm(file, "P5", strips, height, width)


def _write_pnm(
    file: BinaryIO, magic: str, strips: Iterator[NDArray[Any]], height: int, width: int
) -> None:
    for number, samples in enumerate(strips):
        if number == 0:
            file.write(f"{magic}\n{width} {height}\n{np.iinfo(samples.dtype).max}\n".encode())
        file.write(_big_endian(samples))


def write_pam(file: BinaryIO, strips: Iterator[NDArray[Any]], height: int, width: int) -> None:
    """Write a PAM of samples (H, W, 1) to (H, W, 4), uint8 or uint16."""
    for number, samples in enumerate(strips):
        if number == 0:
            channels = samples.shape[2]
            lines = [
                *("P7", f"WIDTH {width}", f"HEIGHT {height}", f"DEPTH {channels}"),
                *(f"MAXVAL {np.iinfo(samples.dtype).max}", f"TUPLTYPE {_TUPLE_NAMES[channels]}"),
            ]
            file.write("\n".join([*lines, "ENDHDR\n"]).encode())
        file.write(_big_endian(samples))


def write_pfm(file: BinaryIO, strips: Iterator[NDArray[Any]], height: int, width: int) -> None:
    """Write a PFM of samples (H, W, 1) or (H, W, 3), uint8 or uint16 in sRGB."""
    end = 0
    for number, samples in enumerate(strips):
        row_bytes = width * samples.shape[2] * 4
        if number == 0:
            magic = "Pf" if samples.shape[2] == 1 else "PF"
            file.write(f"{magic}\n{width} {height}\n-1.0\n".encode())
            end = file.tell() + height * row_bytes
        light = light_of(to_float(samples).astype(np.float64)).astype("<f4")
        end -= len(light) * row_bytes  # the last row comes first
        file.seek(end)
        file.write(light[::-1].tobytes())


def embed(_: BinaryIO, metadata: Metadata, __: Resolution) -> list[str]:
    """A line for each part of the metadata, of which these formats hold none."""
    return without_place(metadata, "PPM and its like")


def _big_endian(samples: NDArray[Any]) -> bytes:
    return samples.astype(samples.dtype.newbyteorder(">")).tobytes()
