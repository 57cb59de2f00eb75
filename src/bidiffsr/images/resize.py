"""The two bicubics the super-resolution tables rest on, in numpy alone.

They differ, and both are needed: low-resolution pictures and the tables' "Bicubic" row come from
MATLAB's ``imresize``; the network's condition comes from OpenCV's ``INTER_CUBIC``.

================  ===============  =================  ==========================
function          Keys' parameter  when shrinking     outside the picture
================  ===============  =================  ==========================
`imresize`        a = -0.5         kernel is widened  mirrored, edge pixel twice
`cubic_upscale`   a = -0.75        refused            edge pixel repeated
================  ===============  =================  ==========================

Pictures are height x width x channels, or height x width. Sums run in float64, tap by tap in a
fixed order, so a result depends neither on block sizes nor on the BLAS or the CPU at hand.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bidiffsr.errors import ConfigError, ImageError

Sample = TypeVar("Sample", bound=np.generic)

LARGEST_SCALE = 1024
"""`imresize` takes scales from 1/1024 to 1024: the number of taps grows as 1/scale."""

Resizing = float | tuple[int, int]
"""What becomes of a picture: a scale, or the height and width to have."""

_BLOCK_SAMPLES = 1 << 17  # per block of rows: float64 intermediates then stay in the CPU's cache


@dataclass(frozen=True)
class _Taps:
    """One axis of a separable filter: out[o] = sum over t of weights[o, t] * in[indices[o, t]]."""

    indices: NDArray[np.intp]
    weights: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.indices)

    def chosen(self, outputs: slice | None) -> _Taps:
        """The given outputs only."""
        return self if outputs is None else _Taps(self.indices[outputs], self.weights[outputs])

    def apply(self, image: NDArray[Any]) -> NDArray[np.float64]:
        """The outputs along the first axis of a three-axis `image`."""
        total = np.zeros((len(self), *image.shape[1:]))
        for tap in range(self.indices.shape[1]):
            total += image[self.indices[:, tap]] * self.weights[:, tap, None, None]
        return total


def imresize(
    image: NDArray[Any],
    scale: Resizing,
    *,
    rows: slice | None = None,
    convert: Callable[[NDArray[Any]], NDArray[np.float32]] | None = None,
) -> NDArray[Any]:
    """MATLAB's ``imresize(image, scale, "bicubic")`` with its default antialiasing.

    Args:
        image: (H, W, C) or (H, W); float32 (nominally [0, 1]) or uint8.
        scale: from 1/1024 to 1024; below 1 the kernel is widened by 1/scale (antialiasing). Or the
            height and width to have, in pixels, by which each axis has a scale of its own.
        rows: the rows of the result that are wanted; by default all.
        convert: makes (h, W, C') float32 of some rows of `image`, which may then have any dtype;
            so a large picture is never there as floats as a whole.

    Returns:
        A picture of ceil(H * scale) x ceil(W * scale), or of the height and width asked for, or
        the rows of it, and the dtype of `image`. float32 is not clipped: bicubic overshoots at
        edges. As in MATLAB, the class of the input decides where rounding happens: a uint8 picture
        is rounded (half up) and saturated after *each* axis, rows first. The published x2, x3 and
        x4 test pictures were made that way, the x8 ones from float with a single rounding at the
        end; about one sample in eight differs by a grey level.

    Raises:
        ConfigError: `scale` is not a number in that range.
        ImageError: `image` has another shape or dtype, or no pixels.

    Source: Keys, "Cubic convolution interpolation for digital image processing", 1981, a = -0.5.
    """
    _require_picture(image, None if convert else (np.float32, np.uint8))
    height, width = image.shape[:2]
    if isinstance(scale, tuple):
        lengths, scales = scale, (scale[0] / height, scale[1] / width)
    else:
        lengths, scales = resized((height, width), _finite(scale, "scale")), (scale, scale)
    for each in scales:
        if not 1 / LARGEST_SCALE <= each <= LARGEST_SCALE:
            raise ConfigError(
                f"scale is {each}; expected a number from 1/{LARGEST_SCALE} to {LARGEST_SCALE}"
            )
    row_taps, column_taps = map(_matlab_taps, (height, width), scales, lengths)
    return _resample(image, row_taps.chosen(rows), column_taps, convert)


def resized_length(length: int, scale: float) -> int:
    """The length of a side of `length` pixels after `imresize` by `scale`."""
    return math.ceil(length * scale - 1e-9)  # 50 * 1.1 is 55.00000000000001 in binary, yet 55


def resized(size: tuple[int, int], scale: Resizing) -> tuple[int, int]:
    """Height and width of a picture of such `size` after `imresize`."""
    if isinstance(scale, tuple):
        return scale
    height, width = size
    return resized_length(height, scale), resized_length(width, scale)


def cubic_upscale(
    image: NDArray[np.float32], factor: float, *, rows: slice | None = None
) -> NDArray[np.float32]:
    """OpenCV's ``resize(image, None, fx=factor, fy=factor, interpolation=INTER_CUBIC)``.

    Args:
        image: (H, W, C) or (H, W), float32, nominally [0, 1].
        factor: 1 or more, whole or not. INTER_CUBIC does not antialias, so it must not shrink.
        rows: the rows of the result that are wanted; by default all.

    Returns:
        float32, round(H * factor) x round(W * factor), ties to even, or the rows of it; not
        clipped, as OpenCV.

    Raises:
        ConfigError: `factor` is not a number from 1 up.
        ImageError: `image` has another shape or dtype, or no pixels.

    Source: Keys 1981, a = -0.75, half-pixel centres, replicated border.
    """
    if _finite(factor, "factor") < 1:
        raise ConfigError(f"factor is {factor}; expected 1 or more; to shrink, use imresize")
    _require_picture(image, (np.float32,))
    height, width = image.shape[:2]
    return _resample(image, _opencv_taps(height, factor).chosen(rows), _opencv_taps(width, factor))


def mod_crop(image: NDArray[Sample], scale: int) -> NDArray[Sample]:
    """The top left part of `image` whose height and width are multiples of `scale` (a view).

    The tables score high-resolution pictures cropped this way.

    Raises:
        ConfigError: `scale` is not a whole number from 1 up.
        ImageError: `image` has another number of axes, or is smaller than `scale`.
    """
    if isinstance(scale, bool) or not isinstance(scale, int | np.integer) or scale < 1:
        raise ConfigError(f"scale is {scale!r}; expected a whole number from 1 up")
    if image.ndim not in (2, 3) or min(image.shape[:2]) < scale:
        raise ImageError(
            f"picture of shape {image.shape} cannot be cropped to a multiple of {scale}; "
            f"expected height x width (x channels) of {scale} or more each"
        )
    height, width = image.shape[:2]
    return image[: height - height % scale, : width - width % scale]


def _keys_cubic(distance: NDArray[np.float64], a: float) -> NDArray[np.float64]:
    """Keys 1981, equation 15 (there for a = -0.5): the cubic convolution kernel."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _matlab_taps(size: int, scale: float, length: int) -> _Taps:
    """imresize along one axis: pixel o covers input position (o + 1/2) / scale - 1/2."""
    stretch = max(1.0, 1.0 / scale)  # antialiasing widens the kernel, and only when shrinking
    centres = (np.arange(length, dtype=np.float64) + 0.5) / scale - 0.5
    first = np.floor(centres - 2 * stretch).astype(np.intp)
    positions = first[:, None] + np.arange(math.ceil(4 * stretch) + 2)
    weights = _keys_cubic((centres[:, None] - positions) / stretch, a=-0.5)
    weights /= sum(weights.T, start=np.zeros(length))[:, None]  # tap by tap, as the engine does
    mirrored = positions % (2 * size)
    indices = np.minimum(mirrored, 2 * size - 1 - mirrored)
    used = weights.any(axis=0)
    return _Taps(indices[:, used], weights[:, used])


def _opencv_taps(size: int, factor: float) -> _Taps:
    """INTER_CUBIC along one axis: the four nearest pixels, never more."""
    centres = (np.arange(round(size * factor), dtype=np.float64) + 0.5) / factor - 0.5
    positions = np.floor(centres).astype(np.intp)[:, None] + np.arange(-1, 3)
    weights = _keys_cubic(centres[:, None] - positions, a=-0.75)
    return _Taps(np.clip(positions, 0, size - 1), weights)


def _resample(
    image: NDArray[Any],
    rows: _Taps,
    columns: _Taps,
    convert: Callable[[NDArray[Any]], NDArray[Any]] | None = None,
) -> NDArray[Any]:
    """Both axes, rows first, in blocks of output rows so that memory stays near the output's."""
    planes = image[..., None] if image.ndim == 2 else image
    sample = convert(planes[:1]) if convert else planes[:1]
    _, width, channels = sample.shape
    output = np.empty((len(rows), len(columns), channels), sample.dtype)
    step = max(1, _BLOCK_SAMPLES // (max(width, len(columns)) * channels))
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        taps, source = rows.chosen(block), planes
        if convert:
            first = taps.indices.min()
            source = convert(planes[first : taps.indices.max() + 1])
            taps = _Taps(taps.indices - first, taps.weights)
        filtered = _settle(taps.apply(source), sample.dtype)
        # Columns are filtered as rows of the transpose: whole rows move, not single pixels.
        transposed = np.ascontiguousarray(filtered.swapaxes(0, 1))
        output[block] = _settle(columns.apply(transposed), sample.dtype).swapaxes(0, 1)
    return output[..., 0] if image.ndim == 2 else output


def _settle(samples: NDArray[np.float64], dtype: np.dtype) -> NDArray[np.float64]:
    """What one axis of MATLAB's imresize hands on: uint8 is saturated and rounded half up."""
    return np.floor(np.clip(samples, 0, 255) + 0.5) if dtype == np.uint8 else samples


def _finite(value: float, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"{name} is {value!r}; expected a finite number above 0")
    return number


def _require_picture(
    image: NDArray[np.generic], dtypes: tuple[type[np.generic], ...] | None
) -> None:
    if not isinstance(image, np.ndarray) or (dtypes and image.dtype not in dtypes):
        found = getattr(image, "dtype", type(image).__name__)
        wanted = " or ".join(dtype.__name__ for dtype in dtypes or ())
        raise ImageError(
            f"image is {found}; expected a numpy array of {wanted}; "
            "of uint8 samples, pixels.astype(numpy.float32) / 255 makes one"
        )
    if image.ndim not in (2, 3) or image.size == 0:
        raise ImageError(
            f"image has shape {image.shape}; expected height x width x channels "
            "or height x width, each at least 1"
        )
