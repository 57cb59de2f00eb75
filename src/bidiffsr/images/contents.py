"""What a file's own structure says of its pictures, beside what libvips tells."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bidiffsr.errors import ImageError
from bidiffsr.images.colours import Encoding, srgb_of
from bidiffsr.images.image import from_float
from bidiffsr.images.metadata import NO_METADATA, Metadata

_ROWS = 64  # at a time, in double precision


@dataclass(frozen=True)
class Raw:
    """Samples of a format that libvips does not decode.

    Attributes:
        height: rows, as the file has them.
        width: columns.
        channels: 1 to 4: grey or RGB, with or without alpha.
        sample_bytes: of each sample, 1 or 2.
        decode: gives them, (height, width, channels) of uint8 or uint16; raises ImageError.
        dpi: dots per inch, across and down.
        icc: gives the ICC profile, if there is one, once they are decoded.
    """

    height: int
    width: int
    channels: int
    sample_bytes: int
    decode: Callable[[], NDArray[Any]]
    dpi: tuple[float, float] | None = None
    icc: Callable[[], bytes | None] = lambda: None


@dataclass(frozen=True)
class Contents:
    """How to read one picture.

    Attributes:
        data: what is to be decoded.
        raw: how to decode it, where libvips does not.
        page: which of the pages in it is the picture, from 0.
        encoding: how its samples stand for colours; None: as its ICC profile says, or sRGB.
        obeys_profile: whether an ICC profile, where there is one, overrules `encoding`.
        most_pixels: how many its bytes can hold; a header that promises more is not believed.
        keyed: whether alpha means one of the palette's colours, which need not occur in it.
        jpegs: parts that libvips decodes without saying what it misses in them.
        check: raises ImageError where samples are lost that libvips does not miss.
        metadata: what stands beside the picture.
        bare: `data` with this picture alone and without metadata, of which libvips complains as it
            does of pixels; None where it does not.
    """

    data: bytes
    raw: Raw | None = None
    page: int = 0
    encoding: Encoding | None = None
    obeys_profile: bool = True
    most_pixels: float = math.inf
    keyed: bool = False
    jpegs: tuple[bytes, ...] = ()
    check: Callable[[], object] = lambda: None
    metadata: Callable[[], Metadata] = lambda: NO_METADATA
    bare: Callable[[], bytes] | None = None


class After(Enum):
    """What becomes of a frame when its time is over."""

    STAYS = 0
    CLEARED = 1
    UNDONE = 2


@dataclass(frozen=True)
class Part:
    """One of several pictures of a file.

    Attributes:
        contents: how to read it, as if it were alone.
        delay: how long it is shown, in seconds; None where the file states no times.
        left, top: where it lies on the canvas.
        blended: whether what is below shows through; else it is replaced.
        after: what then becomes of it.
    """

    contents: Contents
    delay: Fraction | None = None
    left: int = 0
    top: int = 0
    blended: bool = False
    after: After = After.STAYS


@dataclass(frozen=True)
class Album:
    """The pictures of a file.

    Attributes:
        count: how many there are.
        parts: gives them in order, anew with each call; raises ImageError where they are damaged.
        canvas: height and width of what frames are drawn on; None: pages, each for itself.
        plays: how often frames are shown; 0: for ever.
    """

    count: int
    parts: Callable[[], Iterator[Part]]
    canvas: tuple[int, int] | None = None
    plays: int = 0


DAMAGED_FRAMES = "its frames are damaged or cut short; expected whole ones; fetch it again"


def refuse_pages(count: int) -> ImageError:
    """The error for a file of several pictures."""
    return ImageError(
        f"holds {count} pages or frames; expected one; ask for all (--pages all), or split it first"
    )


def damaged(why: str) -> ImageError:
    """The error for a file that is no whole one, in the words of libvips' errors."""
    return ImageError(
        f"damaged or cut short ({why}); expected a whole file; fetch or export it again"
    )


def refuse_samples(what: str) -> ImageError:
    """The error for samples of another kind; `what` is said of them, such as "4 bands"."""
    return ImageError(
        f"holds {what}; expected grey or RGB of 8 or 16 bits, with or without alpha; convert it"
    )


def from_light(light: NDArray[np.floating]) -> NDArray[np.uint16]:
    """Linear light (H, W, C), 1 being white, as samples in sRGB.

    Raises:
        ImageError: some is beyond white or below black.
    """
    check_light(light)
    samples = np.empty(light.shape, np.uint16)
    for row in range(0, len(light), _ROWS):
        rows = slice(row, row + _ROWS)
        samples[rows] = from_float(srgb_of(light[rows].astype(np.float64)), np.uint16)
    return samples


def check_light(light: NDArray[np.floating]) -> None:
    """Make sure that linear light is that of a picture, 1 being white.

    Raises:
        ImageError: some is beyond white or below black, or no number.
    """
    least, most = float(light.min()), float(light.max())
    if not (least >= 0 and most <= 1):
        raise refuse_samples(f"light from {least:.4g} to {most:.4g}, where white is 1")
