"""What a file's own structure says of its picture, beside what libvips tells."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bidiffsr.errors import ImageError
from bidiffsr.images.colours import Encoding


@dataclass(frozen=True)
class Contents:
    """How to read a file that holds one picture.

    Attributes:
        data: what libvips is to decode.
        page: which of the file's pages is the picture, from 0.
        encoding: how its samples stand for colours; None: as its ICC profile says, or sRGB.
        obeys_profile: whether an ICC profile, where there is one, overrules `encoding`.
        most_pixels: how many its bytes can hold; a header that promises more is not believed.
        jpegs: parts that libvips decodes without saying what it misses in them.
    """

    data: bytes
    page: int = 0
    encoding: Encoding | None = None
    obeys_profile: bool = True
    most_pixels: float = math.inf
    jpegs: tuple[bytes, ...] = ()


def refuse_pages(count: int) -> ImageError:
    """The error for a file of several pictures."""
    return ImageError(f"holds {count} pages or frames; expected one; split it first")


def refuse_samples(what: str) -> ImageError:
    """The error for samples of another kind; `what` is said of them, such as "4 bands"."""
    return ImageError(
        f"holds {what}; expected grey or RGB of 8 or 16 bits, with or without alpha; convert it"
    )
