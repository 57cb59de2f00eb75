"""A picture in memory, and the one place that states value ranges.

===========  ===============  ==================================================
dtype        range            where
===========  ===============  ==================================================
``uint8``    0 ... 255        files, `Image`
``uint16``   0 ... 65535      files, `Image`
``float32``  0.0 ... 1.0      everything that computes; 1.0 is 255 or 65535
===========  ===============  ==================================================

Arrays are height x width x channels, alpha is height x width. Sample values stay in the colour
space of their file, gamma encoding included; the ICC profile that explains them travels along.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from bidiffsr.errors import ImageError, NumericalError
from bidiffsr.images.metadata import NO_METADATA, Metadata


@dataclass(frozen=True)
class Header:
    """What is known of a picture before its samples are decoded.

    Attributes:
        height: rows, upright.
        width: columns, upright.
        has_alpha: whether there is an alpha channel.
        sample_bytes: of one sample, 1 or 2.
    """

    height: int
    width: int
    has_alpha: bool
    sample_bytes: int

    @property
    def samples(self) -> int:
        """In a pixel of the ``Image``, whose grey is three channels too."""
        return 4 if self.has_alpha else 3


@dataclass(frozen=True, eq=False)
class Image:
    """A decoded picture, upright, with what is needed to write it back faithfully.

    Attributes:
        pixels: (H, W, 3), uint8 or uint16; a grey picture has three equal channels.
        alpha: (H, W), dtype of `pixels`, 0 is transparent; colour is not premultiplied by it.
        grey: whether the file held grey samples, and should again.
        icc: the ICC profile the samples are in; None means sRGB (or sRGB's grey).
        dpi: horizontal and vertical resolution, dots per inch; None where the file states none.
        metadata: what else its file says; sizes and orientation in it are put right on writing.

    Raises:
        ImageError: the arrays are not of these shapes and dtypes.
    """

    pixels: NDArray[Any]
    alpha: NDArray[Any] | None = None
    grey: bool = False
    icc: bytes | None = None
    dpi: tuple[float, float] | None = None
    metadata: Metadata = NO_METADATA

    def __post_init__(self) -> None:
        pixels, alpha = self.pixels, self.alpha
        for name, value in {
            "pixels": pixels,
            **({} if alpha is None else {"alpha": alpha}),
        }.items():
            if not isinstance(value, np.ndarray):
                raise ImageError(
                    f"{name} is of type {type(value).__name__}; expected a numpy array"
                )
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
            raise ImageError(f"pixels have shape {pixels.shape}; expected height x width x 3")
        if pixels.dtype not in (np.uint8, np.uint16):
            raise ImageError(f"pixels are {pixels.dtype}; expected uint8 or uint16")
        if alpha is not None and (alpha.shape != pixels.shape[:2] or alpha.dtype != pixels.dtype):
            raise ImageError(
                f"alpha is {alpha.dtype} of shape {alpha.shape}; "
                f"expected {pixels.dtype} of shape {pixels.shape[:2]}, like the pixels"
            )

    @property
    def header(self) -> Header:
        """What its file would say of it."""
        has_alpha = self.alpha is not None
        return Header(self.height, self.width, has_alpha, self.pixels.itemsize)

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.pixels.shape[0]

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.pixels.shape[1]


def to_float(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Samples of any shape, uint8 or uint16, as float32 in [0, 1].

    Raises:
        ImageError: another dtype.
    """
    return np.divide(pixels, np.float32(peak(pixels.dtype)), dtype=np.float32)


def from_float(image: NDArray[np.floating], dtype: DTypeLike = np.uint8) -> NDArray[Any]:
    """Floats as uint8 or uint16 samples: clipped to [0, 1], scaled, rounded half up.

    The inverse of `to_float`, exactly.

    Raises:
        ImageError: `image` is not floating point, or `dtype` is neither uint8 nor uint16.
        NumericalError: `image` holds NaN, for which there is no sample value.
    """
    if not np.issubdtype(image.dtype, np.floating):
        raise ImageError(f"picture is {image.dtype}; expected floats in [0, 1]; see to_float")
    largest = peak(dtype)
    scaled = np.clip(image, 0, 1, dtype=np.promote_types(image.dtype, np.float32))
    if np.isnan(scaled).any():
        raise NumericalError("picture holds NaN; expected numbers in [0, 1]")
    scaled *= largest
    scaled += 0.5  # the conversion below drops the fraction, so this rounds half up
    return scaled.astype(dtype)


def premultiply(colour: NDArray[np.float32], alpha: NDArray[np.float32]) -> NDArray[np.float32]:
    """Colour weighted by its opacity: what may be filtered together with `alpha`.

    Args:
        colour: (H, W, C), float32 in [0, 1].
        alpha: (H, W), float32 in [0, 1].
    """
    return np.multiply(colour, alpha[..., None], dtype=np.float32)


def unpremultiply(colour: NDArray[np.float32], alpha: NDArray[np.float32]) -> NDArray[np.float32]:
    """The inverse of `premultiply`, clipped to [0, 1].

    Where alpha is below half a 16-bit step, hence stored as 0, colour cannot be seen and is 0.
    """
    visible = alpha >= 0.5 / 65535
    divisor = np.where(visible, alpha, np.inf)  # finite / inf is 0, without a warning
    return np.clip(np.divide(colour, divisor[..., None], dtype=np.float32), 0, 1)


def peak(dtype: DTypeLike) -> int:
    """The largest sample value: 255 or 65535.

    Raises:
        ImageError: another dtype.
    """
    dtype = np.dtype(dtype)
    if dtype not in (np.uint8, np.uint16):
        raise ImageError(f"samples are {dtype}; expected uint8 or uint16")
    return int(np.iinfo(dtype).max)
