"""NIQE: how unnatural a picture looks, without a reference; lower is better.

Mittal, Soundararajan, Bovik, "Making a Completely Blind Image Quality Analyzer", IEEE Signal
Processing Letters 2013. `niqe_pristine.npz` beside this module holds the parameters the authors
published with the metric: the mean and covariance of the features of pristine pictures, and the
Gaussian window of the local statistics.

As in the published implementations the luma is rounded and everything up to the features is single
precision, which shows: a local mean rounded to single precision equals the pixels of a flat area
exactly, where the noise of double precision would count as texture (and move a score by 0.1 and
more); and a last bit may carry a fitted shape over to its next step of 0.001, worth about 0.002.
"""

from __future__ import annotations

import functools
import importlib.resources
import math
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bidiffsr.errors import ImageError
from bidiffsr.evaluation.pixels import FloatArray, check_rgb8, crop_border, filter_valid, luma

Float32Array: TypeAlias = NDArray[np.float32]

_BLOCK = 96  # pixels, at full size
# Each pixel is multiplied with its neighbour to the left, above, and on the two diagonals.
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))


def niqe(image: NDArray[np.uint8], crop: int) -> float:
    """Natural image quality evaluator of the luma; lower is better, good photographs have 2-6.

    Blocks of 96x96 count; what is left over at the right and bottom does not, nor do blocks so flat
    that a feature is undefined. A single block has no covariance and counts as having none.

    Args:
        image: uint8 (height, width, 3), RGB.
        crop: pixels cut from each border first.

    Returns:
        The distance from pristine pictures, ≥ 0.

    Raises:
        ImageError: a dtype or shape other than stated, no whole block after the crop, or only flat
            blocks.
        ConfigError: `crop` is not a whole number ≥ 0.
    """
    check_rgb8(image, "the picture")
    plane = np.rint(luma(crop_border(image, crop))).astype(np.float32)
    height, width = (length // _BLOCK * _BLOCK for length in plane.shape)
    if not height or not width:
        raise ImageError(
            f"NIQE needs at least {_BLOCK}x{_BLOCK} pixels, not {plane.shape[1]}x{plane.shape[0]} "
            f"(after {crop} cropped from each border)"
        )
    plane = plane[:height, :width]
    features = np.hstack(
        [_block_features(plane, _BLOCK), _block_features(_halved(plane), _BLOCK // 2)]
    )
    features = features[np.isfinite(features).all(axis=1)]
    if not len(features):
        raise ImageError(f"NIQE is undefined: every {_BLOCK}x{_BLOCK} block of the picture is flat")
    return _distance_from_pristine(features)


def _distance_from_pristine(features: FloatArray) -> float:
    """Between the Gaussians of pristine features and of `features`, float64 (blocks, 36)."""
    pristine = _pristine()
    mean = features.mean(axis=0)
    centred = features - mean
    covariance = centred.T @ centred / max(len(features) - 1, 1)
    difference = pristine.mean - mean
    inverse = np.linalg.pinv((pristine.covariance + covariance) / 2)
    return math.sqrt(max(difference @ inverse @ difference, 0.0))


# Antialiased bicubic by 1/2: every output pixel lies midway between two input pixels, so all
# have these eight weights, Keys' kernel (a = -0.5) at distances 1.75, 1.25, 0.75, 0.25, 0.25, ...
_HALVING_TAPS = np.array([-3, -9, 29, 111, 111, 29, -9, -3], np.float32) / np.float32(256)


def _halved(plane: Float32Array) -> Float32Array:
    """MATLAB's imresize by 1/2 of a float32 plane of even size, scaled to 0..1 meanwhile.

    `bidiffsr.images.resize.imresize` with the sums in single precision: see the top of this module.
    """
    plane = plane / np.float32(255)
    for _axis in range(2):
        rows = len(plane) // 2
        padded = np.pad(plane, ((3, 3), (0, 0)), mode="symmetric")
        total = np.zeros((rows, plane.shape[1]), np.float32)
        for tap, weight in enumerate(_HALVING_TAPS):
            total += padded[tap : tap + 2 * rows : 2] * weight
        plane = total.T  # the second round halves the other axis and turns back
    return plane * np.float32(255)


def _block_features(plane: Float32Array, block: int) -> FloatArray:
    """The features at one scale (Mittal et al. 2013), float64 (blocks, 18); NaN where undefined."""
    rows, columns = plane.shape[0] // block, plane.shape[1] // block
    tiles = _normalized(plane).reshape(rows, block, columns, block).swapaxes(1, 2)
    blocks = tiles.reshape(rows * columns, block, block)
    fit = _fit_aggd(blocks)
    features = [fit.shape, (fit.left + fit.right) / 2]
    for shift in _NEIGHBOURS:
        # Neighbours wrap around within a block, as in the published implementations.
        fit = _fit_aggd(blocks * np.roll(blocks, shift, axis=(1, 2)))
        features += [fit.shape, fit.mean, fit.left, fit.right]
    return np.stack(features, axis=1)


def _normalized(plane: Float32Array) -> Float32Array:
    """Mean-subtracted, contrast-normalized coefficients (Mittal et al. 2013, eqs. 1-3)."""
    taps = _pristine().window
    radius = len(taps) // 2

    def local_mean(values: Float32Array) -> Float32Array:
        return filter_valid(np.pad(values, radius, mode="edge"), taps).astype(np.float32)

    mean = local_mean(plane)
    # Rounding can leave a flat area's variance a little below 0.
    deviation = np.sqrt(np.abs(local_mean(np.square(plane)) - np.square(mean)))
    return (plane - mean) / (deviation + np.float32(1))


class _Aggd(NamedTuple):
    """An asymmetric generalized Gaussian for each block: α, β left, β right, η; float64."""

    shape: FloatArray
    left: FloatArray
    right: FloatArray
    mean: FloatArray


def _fit_aggd(blocks: Float32Array) -> _Aggd:
    """Fit each block by matching moments; NaN where it has nothing on one side of zero.

    Lasmar, Stitou, Berthoumieu, "Multiscale skewed heavy-tailed model for texture analysis", 2009.
    `blocks` is float32 (blocks, height, width).
    """
    squares = np.square(blocks)
    below, above = blocks < 0, blocks > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        left_deviation = np.sqrt(_sum(squares * below) / _sum(below))
        right_deviation = np.sqrt(_sum(squares * above) / _sum(above))
        skew = left_deviation / right_deviation
        size = blocks[0].size
        ratio = (_sum(np.abs(blocks)) / size) ** 2 / (_sum(squares) / size)
        ratio *= (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    table = _shape_table()
    row = _nearest(table.ratios, ratio)
    left = left_deviation * table.scales[row]
    right = right_deviation * table.scales[row]
    return _Aggd(table.shapes[row], left, right, (right - left) * table.mean_factors[row])


def _sum(blocks: NDArray[Any]) -> FloatArray:
    return blocks.sum(axis=(1, 2), dtype=np.float64)


def _nearest(ascending: FloatArray, values: FloatArray) -> NDArray[np.intp]:
    """Index of the entry nearest to each value."""
    upper = np.clip(np.searchsorted(ascending, values), 1, len(ascending) - 1)
    nearer_below = values - ascending[upper - 1] <= ascending[upper] - values
    return upper - nearer_below


@dataclass(frozen=True)
class _ShapeTable:
    """What depends on the shape α alone, for the shapes 0.2, 0.201, ..., 10."""

    shapes: FloatArray
    ratios: FloatArray
    """Γ(2/α)² / (Γ(1/α) Γ(3/α)), which grows with α."""
    scales: FloatArray
    """√(Γ(1/α) / Γ(3/α)), from a deviation to the scale β."""
    mean_factors: FloatArray
    """Γ(2/α) / Γ(1/α), from the difference of the scales to the mean."""


@functools.cache
def _shape_table() -> _ShapeTable:
    shapes = np.arange(200, 10_001) / 1000
    one, two, three = (
        np.array([math.lgamma(multiple / shape) for shape in shapes]) for multiple in (1, 2, 3)
    )
    return _ShapeTable(
        shapes=shapes,
        ratios=np.exp(2 * two - one - three),
        scales=np.exp((one - three) / 2),
        mean_factors=np.exp(two - one),
    )


@dataclass(frozen=True)
class _Pristine:
    """The published model of pristine pictures."""

    mean: FloatArray
    covariance: FloatArray
    window: FloatArray


@functools.cache
def _pristine() -> _Pristine:
    resource = importlib.resources.files("bidiffsr.evaluation") / "niqe_pristine.npz"
    with resource.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return _Pristine(
            mean=arrays["mu_pris_param"].reshape(-1),
            covariance=arrays["cov_pris_param"],
            # The published window is the outer product of these taps, which sum to 1.
            window=arrays["gaussian_window"].sum(axis=0),
        )
