"""What is computed of a picture around the network, in numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bidiffsr.diffusion.noise import normal_noise
from bidiffsr.images.resize import cubic_upscale, imresize
from bidiffsr.system.buffers import release, strips
from bidiffsr.system.threads import for_each

Floats = NDArray[np.float32]


class NumpySurroundings:
    """See ``Surroundings``: for backends that do not compute it themselves.

    Args:
        threads: see ``for_each``.
    """

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads

    def interpolate(self, colour: Floats, factor: int, cond: Floats) -> None:
        """See ``Surroundings``."""
        small = colour.transpose(1, 2, 0)
        height, width = (side * factor for side in small.shape[:2])
        rows, columns = (
            np.pad(np.arange(side), (0, full - side), mode="reflect")
            for side, full in zip((height, width), cond.shape[1:], strict=True)
        )

        def fill(strip: slice) -> None:
            part = cubic_upscale(small, factor, rows=strip)
            cond[:, strip] = part[:, columns].transpose(2, 0, 1)
            release(cond)

        for_each(strips(height, len(columns)), fill, self._threads)
        cond[:, height:] = cond[:, rows[height:]]

    def back_project(self, picture: Floats, source: Floats, factor: int) -> None:
        """See ``Surroundings``."""
        large, small = (each.transpose(1, 2, 0) for each in (picture, source))
        lacking = np.empty(small.shape, np.float32)
        height, width = small.shape[:2]

        def find(rows: slice) -> None:
            lacking[rows] = small[rows] - imresize(large, 1 / factor, rows=rows)
            release(picture)

        def add(rows: slice) -> None:
            corrected = large[rows] + cubic_upscale(lacking, factor, rows=rows)
            np.clip(corrected, 0, 1, out=large[rows])
            release(picture)

        for_each(strips(height, width * factor**2), find, self._threads)
        for_each(strips(*large.shape[:2]), add, self._threads)

    def noise(
        self, seed: int, sample: int, stream: int, rows: slice, width: int, scale: float
    ) -> Floats:
        """See ``Surroundings``."""
        height = rows.stop - rows.start
        drawn = normal_noise(seed, sample, 3, height, width, top=rows.start, stream=stream)
        return drawn * np.float32(scale)
