"""All pages or frames of a file, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bidiffsr.errors import ImageError
from bidiffsr.images import exif
from bidiffsr.images.codec import file_bytes
from bidiffsr.images.contents import After, Album, Part
from bidiffsr.images.decode import (
    MAX_PIXELS,
    contents_header,
    decode_contents,
    explaining,
    known_format,
    naming,
)
from bidiffsr.images.formats import Format
from bidiffsr.images.image import Header, Image, from_float, peak, to_float
from bidiffsr.images.timing import Timing
from bidiffsr.system.files import StrPath, printable


@dataclass(frozen=True)
class Pages:
    """The pictures of a file of several, of which one at a time is in the memory.

    Frames come as they are seen, whole and all of one size and kind; pages as they are.
    """

    name: str
    """Of the file, for messages."""
    album: Album
    """What its structure says."""
    _format: Format
    _max_pixels: int

    def __len__(self) -> int:
        return self.album.count

    def headers(self) -> list[Header]:
        """What is known of each before it is decoded; of frames, that there may be alpha.

        Raises:
            ImageError: see `decode_image`; its message names the page.
        """
        headers = []
        for number, part in self._parts():
            with self._explained(number):
                headers.append(contents_header(self._format, part.contents, self._max_pixels))
        if self.album.canvas is None:
            return headers
        height, width = self.album.canvas
        if self._orientation >= 5:
            height, width = width, height
        size = max(header.sample_bytes for header in headers)
        return [Header(height, width, has_alpha=True, sample_bytes=size)] * len(headers)

    def timing(self) -> Timing | None:
        """When they are shown; None of pages."""
        if self.album.canvas is None:
            return None
        delays = tuple(part.delay or Fraction(0) for _, part in self._parts())
        return Timing(delays, self.album.plays)

    def __iter__(self) -> Iterator[Image]:
        """Decode them.

        Raises:
            ImageError: see `decode_image`; of frames, all damage is found before the first.
        """
        if self.album.canvas is None:
            return (image for _, image in self._decoded())
        # Whether there is colour or transparency in any of them shows only when all are seen.
        grey, opaque = True, True
        for image in self._drawn():
            grey &= image.grey
            opaque &= image.alpha is not None and int(image.alpha.min()) == peak(image.alpha.dtype)
        return (
            replace(image, grey=grey, alpha=None if opaque else image.alpha)
            for image in self._drawn()
        )

    def _decoded(self) -> Iterator[tuple[Part, Image]]:
        for number, part in self._parts():
            with self._explained(number):
                image = decode_contents(self._format, part.contents, self._max_pixels)
            yield part, image

    def _drawn(self) -> Iterator[Image]:
        assert self.album.canvas is not None
        canvas: _Canvas | None = None
        for part, image in self._decoded():
            canvas = canvas or _Canvas(self.album.canvas, image.pixels.dtype, self._orientation)
            yield canvas.draw(part, image)

    @property
    def _orientation(self) -> int:
        """That of the whole file, which is beside each frame."""
        _, first = next(self._parts())
        block = first.contents.metadata().exif
        return exif.orientation(block) if block else 1

    def _parts(self) -> Iterator[tuple[int, Part]]:
        """Each with its number, from 1."""
        parts = self.album.parts()
        for number in range(1, self.album.count + 1):
            with self._explained(number):
                part = next(parts)
            yield number, part

    @contextmanager
    def _explained(self, number: int) -> Iterator[None]:
        with naming(self.name), naming(f"page {number}"), explaining(self._format):
            yield


def open_pages(path: StrPath, *, max_pixels: int = MAX_PIXELS) -> Pages | None:
    """The pages or frames of a file; None where it holds but one picture, see `read_image`.

    Args:
        path: the file.
        max_pixels: refuse a page of more pixels than this before decoding it.

    Raises:
        ImageError: as `read_image`, for what can be known before a page is looked at.
    """
    data = file_bytes(path, max_pixels)
    with naming(printable(path)):
        format_ = known_format(data)
        album = format_.album(data)
        if album is None or album.count < 2:
            return None
        height, width = album.canvas or (1, 1)
        if not 0 < height * width <= max_pixels:
            raise ImageError(
                f"says it is {width}x{height}; expected 1 to {max_pixels} pixels in all"
            )
        return Pages(printable(path), album, format_, max_pixels)


class _Canvas:
    """What frames are drawn on.

    Args:
        size: height and width.
        dtype: of the samples.
        orientation: of the whole, as EXIF states it.
    """

    def __init__(self, size: tuple[int, int], dtype: Any, orientation: int) -> None:
        self._samples = np.zeros((*size, 4), dtype)
        self._orientation = orientation

    def draw(self, part: Part, image: Image) -> Image:
        """The canvas with a frame on it; what becomes of it afterwards is done here, too."""
        place = self._samples[
            part.top : part.top + image.height, part.left : part.left + image.width
        ]
        before = place.copy() if part.after is After.UNDONE else None
        alpha = image.alpha
        if alpha is None:
            place[..., :3], place[..., 3] = image.pixels, peak(image.pixels.dtype)
        elif part.blended:
            _blend(place, image.pixels, alpha)
        else:
            place[..., :3], place[..., 3] = image.pixels, alpha
        shown = _turned(self._samples, self._orientation).copy()
        if before is not None:
            place[:] = before
        elif part.after is After.CLEARED:
            place[:] = 0
        return replace(image, pixels=shown[..., :3], alpha=shown[..., 3].copy())


def _blend(below: NDArray[Any], pixels: NDArray[Any], alpha: NDArray[Any]) -> None:
    """Put what may be transparent over samples (H, W, 4), as the PNG specification says (13.16)."""
    white = peak(pixels.dtype)
    clear = (alpha == white) | (below[..., 3] == 0)
    below[clear, :3], below[clear, 3] = pixels[clear], alpha[clear]
    mixed = ~clear & (alpha > 0)
    upper, under = to_float(alpha[mixed]), to_float(below[mixed, 3])
    weight = under * (1 - upper)
    total = upper + weight
    colours = (
        to_float(pixels[mixed]) * upper[:, None] + to_float(below[mixed, :3]) * weight[:, None]
    )
    below[mixed, :3] = from_float(colours / total[:, None], pixels.dtype)
    below[mixed, 3] = from_float(total, pixels.dtype)


def _turned(samples: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Made upright (Exif 2.32, 4.6.4, tag 274)."""
    if orientation >= 5:
        samples = samples.swapaxes(0, 1)
    down = orientation in (3, 4, 7, 8)
    across = orientation in (2, 3, 6, 7)
    return samples[:: -1 if down else 1, :: -1 if across else 1]
