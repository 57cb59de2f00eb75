"""PSNR and SSIM of 8-bit pictures, as the super-resolution papers report them.

Both compare two uint8 RGB pictures of shape (height, width, 3) after `crop` pixels have been cut
from each border, on the unrounded BT.601 luma (16-235, `y=True`) or on RGB. The tables of the
papers use `y=True` and a `crop` equal to the scale.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bidiffsr.errors import ImageError
from bidiffsr.evaluation.pixels import (
    FloatArray,
    Uint8Array,
    check_same_form,
    crop_border,
    filter_valid,
    luma,
)

_PEAK = 255.0
_WINDOW = 11  # pixels
_WINDOW_SIGMA = 1.5  # pixels
# The constants C1 and C2 of SSIM (Wang et al. 2004, §III-B), with K1 = 0.01 and K2 = 0.03.
_LUMINANCE_FLOOR = (0.01 * _PEAK) ** 2
_CONTRAST_FLOOR = (0.03 * _PEAK) ** 2


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8], crop: int, y: bool = True) -> float:
    """Peak signal-to-noise ratio, 10 log10(255² / MSE).

    Args:
        a: uint8 (height, width, 3), RGB.
        b: like `a`, of the same size.
        crop: pixels cut from each border first.
        y: compare the luma; otherwise the mean squared error is over all three channels.

    Returns:
        Decibels; `inf` where the compared parts are identical.

    Raises:
        ImageError: a dtype, shape or size other than stated, or nothing left after the crop.
        ConfigError: `crop` is not a whole number ≥ 0.
    """
    a, b = _comparable(a, b, crop)
    difference = luma(a) - luma(b) if y else a.astype(np.float64) - b
    error = float(np.mean(np.square(difference)))
    return 10 * math.log10(_PEAK**2 / error) if error else math.inf


def ssim(a: NDArray[np.uint8], b: NDArray[np.uint8], crop: int, y: bool = True) -> float:
    """Structural similarity, the mean over the picture and, for RGB, over the three channels.

    Wang, Bovik, Sheikh, Simoncelli, "Image Quality Assessment: From Error Visibility to Structural
    Similarity", 2004: 11x11 Gaussian window (standard
    deviation 1.5) where it lies wholly inside the picture.

    Args:
        a: uint8 (height, width, 3), RGB.
        b: like `a`, of the same size.
        crop: pixels cut from each border first.
        y: compare the luma; otherwise the mean over the channels.

    Returns:
        -1..1; 1 where the compared parts are identical.

    Raises:
        ImageError: a dtype, shape or size other than stated, or less than 11x11 left after the
            crop.
        ConfigError: `crop` is not a whole number ≥ 0.
    """
    a, b = _comparable(a, b, crop)
    height, width = a.shape[:2]
    if min(height, width) < _WINDOW:
        raise ImageError(
            f"SSIM needs at least {_WINDOW}x{_WINDOW} pixels, "
            f"not {width}x{height} (after {crop} cropped from each border)"
        )
    if y:
        return _ssim_of_plane(luma(a), luma(b))
    channels = range(a.shape[2])
    return float(np.mean([_ssim_of_plane(a[..., i], b[..., i]) for i in channels]))


def _comparable(a: NDArray[Any], b: NDArray[Any], crop: int) -> tuple[Uint8Array, Uint8Array]:
    check_same_form(a, b)
    return crop_border(a, crop), crop_border(b, crop)


@functools.cache
def _gaussian() -> FloatArray:
    offset = np.arange(_WINDOW) - _WINDOW // 2
    taps = np.exp(-(offset**2) / (2 * _WINDOW_SIGMA**2))
    return taps / taps.sum()


def _ssim_of_plane(a: NDArray[Any], b: NDArray[Any]) -> float:
    def local_mean(plane: FloatArray) -> FloatArray:
        return filter_valid(plane, _gaussian())

    a, b = a.astype(np.float64), b.astype(np.float64)
    mean_a, mean_b = local_mean(a), local_mean(b)
    means = mean_a**2 + mean_b**2
    variances = local_mean(a * a + b * b) - means
    covariance = local_mean(a * b) - mean_a * mean_b
    # Wang et al. 2004, eq. 13.
    luminance = (2 * mean_a * mean_b + _LUMINANCE_FLOOR) / (means + _LUMINANCE_FLOOR)
    contrast_structure = (2 * covariance + _CONTRAST_FLOOR) / (variances + _CONTRAST_FLOOR)
    return float(np.mean(luminance * contrast_structure))
