"""Small pictures of a large one that is never there as a whole."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bidiffsr.images.image import Image, from_float
from bidiffsr.images.metadata import NO_METADATA
from bidiffsr.system.buffers import release, strips


class Preview:
    """Averages blocks of an upscaled picture that comes in strips of rows, in any order.

    Args:
        source: the picture that is upscaled; previews are in its colour space, grey if it is, and
            without its alpha: what is transparent is black.
        factor: between the source and the picture that comes.
        side: the longest side of a preview, at most, in pixels.
    """

    def __init__(self, source: Image, factor: int, side: int) -> None:
        self._height, self._width = source.height * factor, source.width * factor
        self._block = -(-max(self._height, self._width) // side)
        self._like = replace(source, alpha=None, dpi=None, metadata=NO_METADATA)
        self._columns = np.arange(0, self._width, self._block)
        self._sums = np.zeros(
            (3, -(-self._height // self._block), len(self._columns)), dtype=np.float64
        )

    def add(self, rows: slice, picture: NDArray[np.float32]) -> None:
        """Take some rows.

        Args:
            rows: which.
            picture: (3, rows, W), [0, 1] but for overshoot; more rows and columns than the picture
                has are left out.
        """
        stop = min(rows.stop, self._height)
        if stop <= rows.start:
            return
        part = picture[:, : stop - rows.start, : self._width]
        # Where, among these rows, blocks begin.
        first, last = rows.start // self._block, (stop - 1) // self._block
        starts = np.arange(first, last + 1) * self._block - rows.start
        sums = np.add.reduceat(part, self._columns, axis=2, dtype=np.float64)
        self._sums[:, first : last + 1] += np.add.reduceat(sums, starts.clip(0), axis=1)

    def add_all(self, picture: NDArray[np.float32]) -> None:
        """Take a picture, (3, H, W), that may live on the disk."""
        for rows in strips(*picture.shape[1:]):
            self.add(rows, picture[:, rows])
            release(picture)

    def take(self) -> Image:
        """The preview, 8 bits, of the rows that came since the last one was taken: all of them."""
        heights = np.diff(np.append(np.arange(0, self._height, self._block), self._height))
        widths = np.diff(np.append(self._columns, self._width))
        means = self._sums / (heights[:, None] * widths)
        self._sums[:] = 0
        pixels = from_float(np.ascontiguousarray(means.transpose(1, 2, 0)))
        return replace(self._like, pixels=pixels)
