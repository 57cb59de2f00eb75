"""Methods set beside each other on the same pictures: what a comparison's figures are drawn of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bidiffsr.errors import ConfigError
from bidiffsr.evaluation.benchmark import Pair
from bidiffsr.evaluation.pixels import Uint8Array
from bidiffsr.evaluation.registry import METRICS, Metric
from bidiffsr.evaluation.scores import Method, bicubic, score_picture


@dataclass(frozen=True)
class Place:
    """A square of a picture, pixels of the original."""

    left: int
    top: int
    side: int

    def cut(self, pixels: Uint8Array) -> Uint8Array:
        """(height, width, 3) → (side, side, 3), or less at the picture's end."""
        return pixels[self.top : self.top + self.side, self.left : self.left + self.side]


@dataclass(frozen=True)
class Result:
    """What a method made of a picture."""

    pixels: Uint8Array
    """(height, width, 3)."""
    scores: Mapping[str, float | None]
    """Of the whole picture, by name of the metric; of the original, those without reference."""


@dataclass(frozen=True)
class Comparison:
    """One picture, as it is and as methods make it."""

    name: str
    place: Place
    """Where to look."""
    original: Result
    results: Mapping[str, Result]
    """By name of the method."""


def compare(
    pair: Pair,
    methods: Mapping[str, Method],
    scale: int,
    side: int,
    at: tuple[int, int] | None = None,
    metrics: Sequence[Metric] = METRICS,
) -> Comparison:
    """Upscale one picture by each method, and score what comes out.

    Args:
        pair: of that scale.
        methods: by name.
        scale: a whole number from 2 up.
        side: of the square to look at, pixels of the original.
        at: its left and top; None: where bicubic interpolation is farthest from the original.
        metrics: to score with.

    Raises:
        ConfigError: the square does not fit into the picture.
        ImageError: the picture cannot be scored, or a method returns something else than promised.
    """
    height, width = pair.high.shape[:2]
    if at is None:
        side = min(side, height, width)
        left, top = _hardest(pair, scale, side)
    else:
        left, top = at
    if not (0 <= left <= width - side and 0 <= top <= height - side):
        raise ConfigError(
            f"{pair.path}: {width}x{height} has no square of {side} pixels at {left},{top}; choose "
            f"a place up to {width - side},{height - side}, or a smaller --side"
        )
    results = {}
    for name, method in methods.items():
        pixels = method(pair.low, scale)
        results[name] = Result(pixels, score_picture(pixels, pair, scale, metrics))
    alone = [metric for metric in metrics if metric.no_reference]
    original = Result(pair.high, score_picture(pair.high, pair, scale, alone))
    return Comparison(pair.path.stem, Place(left, top, side), original, results)


def mean_scores(results: Sequence[Result], metric: Metric) -> float | None:
    """Over pictures; None where one has no score."""
    values = [result.scores.get(metric.name) for result in results]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if values and len(known) == len(values) else None


def _hardest(pair: Pair, scale: int, side: int) -> tuple[int, int]:
    """Left and top of the square with the largest squared error of bicubic interpolation."""
    difference = pair.high.astype(np.float64) - bicubic(pair.low, scale)
    sums = np.square(difference).sum(axis=2).cumsum(axis=0).cumsum(axis=1)
    sums = np.pad(sums, ((1, 0), (1, 0)))  # sums[y, x]: over rows below y and columns below x
    squares = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = np.unravel_index(np.argmax(squares), squares.shape)
    return int(left), int(top)
