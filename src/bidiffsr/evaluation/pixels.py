"""What the metrics share: checking a picture, cutting its border, its luma, and filtering."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bidiffsr.errors import ConfigError, ImageError

Uint8Array: TypeAlias = NDArray[np.uint8]
FloatArray: TypeAlias = NDArray[np.float64]

# BT.601 luma of 8-bit RGB in thousandths, for full-range RGB and Y in 16-235 (MATLAB's rgb2ycbcr).
_LUMA_RED, _LUMA_GREEN, _LUMA_BLUE = 65_481, 128_553, 24_966


def check_rgb8(image: NDArray[Any], what: str) -> None:
    """Raise unless `image` is a non-empty uint8 array of shape (height, width, 3).

    Args:
        image: what the caller gave.
        what: how the error message calls it ("the first picture").

    Raises:
        ImageError: any other type, dtype or shape.
    """
    if not isinstance(image, np.ndarray):
        raise ImageError(
            f"{what} must be a numpy array of uint8 (height, width, 3), not {type(image).__name__}"
        )
    if image.dtype != np.uint8:
        raise ImageError(f"{what} must be uint8, not {image.dtype}; scores are of 8-bit pictures")
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ImageError(f"{what} must have shape (height, width, 3), not {image.shape}")


def check_same_form(a: NDArray[Any], b: NDArray[Any]) -> None:
    """Raise unless both are pictures as `check_rgb8` wants them, of the same size.

    Raises:
        ImageError: any other type, dtype, shape or size.
    """
    check_rgb8(a, "the first picture")
    check_rgb8(b, "the second picture")
    if a.shape != b.shape:
        raise ImageError(
            f"the pictures must have the same size, "
            f"not {a.shape[1]}x{a.shape[0]} and {b.shape[1]}x{b.shape[0]}"
        )


def crop_border(image: Uint8Array, crop: int) -> Uint8Array:
    """Cut `crop` pixels from each of the four borders; a view, (height, width, 3).

    Raises:
        ConfigError: `crop` is not a whole number ≥ 0.
        ImageError: nothing would be left.
    """
    if isinstance(crop, bool) or not isinstance(crop, int | np.integer) or crop < 0:
        raise ConfigError(f"crop must be a whole number of pixels, 0 or more, not {crop!r}")
    height, width = image.shape[:2]
    if 2 * crop >= min(height, width):
        raise ImageError(
            f"a {width}x{height} picture is too small to crop {crop} pixels from each border"
        )
    return image[crop : height - crop, crop : width - crop]


def luma(image: Uint8Array) -> FloatArray:
    """BT.601 Y of an 8-bit RGB picture as in MATLAB's rgb2ycbcr, but not rounded.

    Args:
        image: uint8 (height, width, 3), RGB.

    Returns:
        float64 (height, width) in 16..235: the exact value, rounded once.
    """
    red, green, blue = (image[..., channel].astype(np.int32) for channel in range(3))
    return (_LUMA_RED * red + _LUMA_GREEN * green + _LUMA_BLUE * blue) / 255_000 + 16


def filter_valid(plane: NDArray[np.floating], taps: FloatArray) -> FloatArray:
    """Filter with a separable, symmetric window where it lies wholly inside the plane.

    Args:
        plane: floating point (height, width), each at least `len(taps)`.
        taps: float64, an odd number, the same read backwards.

    Returns:
        float64 (height - len(taps) + 1, width - len(taps) + 1).
    """
    radius = len(taps) // 2
    filtered = plane.astype(np.float64)
    for _axis in range(2):
        rows = len(filtered) - 2 * radius
        total = taps[radius] * filtered[radius : radius + rows]
        for offset in range(radius):
            mirrored = 2 * radius - offset
            pair = filtered[offset : offset + rows] + filtered[mirrored : mirrored + rows]
            total += taps[offset] * pair
        filtered = total.T  # the second round filters along the other axis and turns back
    return filtered
