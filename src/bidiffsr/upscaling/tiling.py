"""Tiles: how a picture too large for one run of the network is cut and put together again.

All tiles of a picture are equally large and overlap. What the network predicts of them is blended,
at every step of sampling, with weights that rise and fall smoothly over the overlaps and sum to
one; so the next step starts from one picture, and borders cannot grow from step to step. The
network looks at one tile at a time, its group norms and its attention included: another tile size
gives a slightly different picture, and the same one the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bidiffsr.errors import MemoryEstimateError
from bidiffsr.system.buffers import strips
from bidiffsr.system.threads import for_each

LEAST_TILE = 64
"""Below this a tile is mostly border: the network sees farther than that."""
# Of a tile's side, for each of two neighbours' overlap. See docs/method.md, "Tiles".
_OVERLAP_SHARE = 8

Network = Callable[[slice, slice], NDArray[np.float32]]
"""(rows, columns) of a picture → the prediction of them, (C, rows, columns) float32."""


@dataclass(frozen=True)
class Span:
    """What a row or a column of tiles covers, along one axis."""

    start: int
    weights: NDArray[np.float32]
    """One for each position; those of all spans at a position sum to one."""

    @property
    def range(self) -> slice:
        """The positions."""
        return slice(self.start, self.start + len(self.weights))


@dataclass(frozen=True)
class Tiling:
    """The tiles of a picture: each row of tiles crossed with each column."""

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    largest: int
    """The side that lays these tiles again."""

    @property
    def tile(self) -> tuple[int, int]:
        """Height and width of every tile."""
        return len(self.rows[0].weights), len(self.columns[0].weights)

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)


def lay_tiles(height: int, width: int, largest: int, multiple: int) -> Tiling:
    """The fewest tiles of at most ``largest`` pixels a side, none larger than needed.

    Args:
        height: of the picture, a multiple of ``multiple``.
        width: of the picture, a multiple of ``multiple``.
        largest: side of a tile, at least ``least_tile(multiple)``; rounded down to ``multiple``.
        multiple: tiles begin and end at multiples of this, as the network's levels do.
    """
    largest -= largest % multiple
    rows, columns = (_lay_spans(length, largest, multiple) for length in (height, width))
    needed = min(largest, max(height, width))  # more than the picture has changes nothing
    return Tiling(rows, columns, max(needed, least_tile(multiple)))


def least_tile(multiple: int) -> int:
    """The smallest side of tiles that begin at multiples of ``multiple`` and overlap."""
    return max(LEAST_TILE + -LEAST_TILE % multiple, 2 * multiple)


def _lay_spans(length: int, largest: int, multiple: int) -> tuple[Span, ...]:
    if length <= largest:
        return (Span(0, np.ones(length, np.float32)),)
    # In units of the multiple, of which the overlap has at least one and at most half a tile.
    length, largest = length // multiple, largest // multiple
    overlap = min(-(-largest // _OVERLAP_SHARE), largest // 2)
    count = -(-(length - overlap) // (largest - overlap))
    size = -(-(length + (count - 1) * overlap) // count)
    starts = [index * (length - size) // (count - 1) * multiple for index in range(count)]
    size *= multiple
    windows = []
    for index, start in enumerate(starts):
        weights = np.ones(size)
        if index > 0:
            shared = starts[index - 1] + size - start
            weights[:shared] *= _ramp(shared)
        if index < count - 1:
            shared = start + size - starts[index + 1]
            weights[size - shared :] *= _ramp(shared)[::-1]
        windows.append(weights)
    return tuple(
        Span(start, weights.astype(np.float32))
        for start, weights in zip(starts, windows, strict=True)
    )


def _ramp(length: int) -> NDArray[np.float64]:
    """From 0 to 1 as sin² of a quarter turn: with its mirror image it sums to one everywhere."""
    return np.sin((np.arange(length) + 0.5) * (math.pi / 2 / length)) ** 2


def blend(
    tiling: Tiling, network: Network, result: NDArray[np.float32], threads: int = 1
) -> Iterator[int]:
    """Run the network on every tile and add up its predictions, yielding how many tiles are done.

    Args:
        tiling: the tiles.
        network: is called once for each tile.
        result: (C, H, W), zeros; afterwards the prediction of the whole picture.
        threads: see ``for_each``.
    """
    done = 0
    for row in tiling.rows:
        for column in tiling.columns:
            prediction = network(row.range, column.range)
            window = (row.weights, column.weights) if len(tiling) > 1 else None
            _add(prediction, window, result[:, row.range, column.range], threads)
            done += 1
            yield done


def _add(
    prediction: NDArray[np.float32],
    window: tuple[NDArray[np.float32], NDArray[np.float32]] | None,
    total: NDArray[np.float32],
    threads: int,
) -> None:
    """Add a tile's prediction to what there is, by its window where it has neighbours."""

    def add(rows: slice) -> None:
        part = prediction[:, rows]
        if window is not None:
            down, across = window
            part = part * down[rows, None] * across
        total[:, rows] += part

    for_each(strips(*total.shape[1:]), add, threads)


class TiledNetwork:
    """A network for whole pictures that runs tile by tile, in smaller ones where memory runs out.

    Args:
        tiling: the tiles to begin with.
        multiple: see ``lay_tiles``.
    """

    def __init__(self, tiling: Tiling, multiple: int) -> None:
        self.tiling = tiling
        self._multiple = multiple

    def run(self, network: Network, result: NDArray[np.float32], threads: int = 1) -> Iterator[int]:
        """As ``blend``; if the memory runs out, the tiles are halved and the step begins again.

        They stay small for the steps that follow.

        Raises:
            MemoryEstimateError: not even the smallest tile fits.
        """
        while True:
            try:
                yield from blend(self.tiling, network, result, threads)
                return
            except MemoryError as error:
                self._halve(error)
            result[:] = 0

    def _halve(self, error: MemoryError) -> None:
        largest = max(self.tiling.tile)
        least = least_tile(self._multiple)
        if largest <= least:
            raise MemoryEstimateError(
                f"the memory ran out, though tiles were only {largest} pixels; close other "
                "programs, or upscale a smaller picture"
            ) from error
        height = self.tiling.rows[-1].range.stop
        width = self.tiling.columns[-1].range.stop
        self.tiling = lay_tiles(height, width, max(largest // 2, least), self._multiple)
