"""Whether a result, made small again, is the picture that it was made from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bidiffsr.images.image import Image
from bidiffsr.images.resize import imresize
from bidiffsr.system.buffers import strips
from bidiffsr.upscaling.postprocess import samples_of, visible


@dataclass(frozen=True)
class Consistency:
    """How far pictures are from what their results become when they are made small again.

    Attributes:
        squares: the sum of the squared differences of all colour samples, [0, 1].
        count: of the samples.
        largest: difference of a sample, [0, 1].
    """

    squares: float
    count: int
    largest: float

    @property
    def psnr(self) -> float:
        """In decibels; infinite where there is no difference."""
        return -10 * math.log10(self.squares / self.count) if self.squares else math.inf

    def __add__(self, other: Consistency) -> Consistency:
        """Of all pages together."""
        largest = max(self.largest, other.largest)
        return Consistency(self.squares + other.squares, self.count + other.count, largest)

    def as_dict(self) -> dict[str, float | None]:
        """For JSON, where an infinite PSNR is null."""
        return {"psnr": self.psnr if self.squares else None, "max_difference": self.largest}


def consistency(source: Image, result: Image) -> Consistency:
    """Compare a picture with its result, which is made small as training pictures are.

    That is by ``imresize`` to the picture's size, clipped to [0, 1] and not rounded. Colours are
    weighted by their opacity. A result that is no larger on one axis is resized there, too.

    Args:
        source: the picture.
        result: what was made of it, with alpha if the picture has it.
    """
    size = source.height, source.width
    large, small = samples_of(result), samples_of(source)
    squares, largest = 0.0, 0.0
    for rows in strips(*size):
        again = imresize(large, size, rows=rows, convert=visible).clip(0, 1)
        difference = np.abs(again - visible(small[rows]), dtype=np.float64)
        squares += float(np.square(difference).sum())
        largest = max(largest, float(difference.max()))
    return Consistency(squares, 3 * size[0] * size[1], largest)
