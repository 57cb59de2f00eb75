"""How samples stand for colours where neither sRGB nor an ICC profile says so; each becomes sRGB.

Sources: IEC 61966-2-1 (sRGB), CIE 15 (L*a*b*), the Bradford adaptation as in ICC.1:2022 annex E,
the PNG specification (W3C, third edition, 4.3) and TIFF 6.0 (section 23) with Adobe's notes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bidiffsr.images.image import from_float, peak

BT709 = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
"""x and y of sRGB's white, red, green and blue."""

_D50 = np.array([0.9642, 1.0, 0.8249])  # the white of L*a*b* in files, as in ICC profiles
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_BLOCK_PIXELS = 1 << 16  # worked on at once, so that floats never fill the memory


class Encoding(Protocol):
    """What samples mean."""

    def to_srgb(self, samples: NDArray[Any]) -> NDArray[Any]:
        """`samples`, (H, W, 1) or (H, W, 3) of uint8 or uint16, as sRGB of the same dtype."""
        ...


@dataclass(frozen=True)
class RgbEncoding:
    """Grey or RGB samples with another curve or other primaries than sRGB.

    Attributes:
        gamma: a sample, in [0, 1], is light to this power; None: sRGB's own curve.
        matrix: from linear light to sRGB's; None: the primaries are sRGB's.
    """

    gamma: float | None = None
    matrix: tuple[tuple[float, float, float], ...] | None = None

    def to_srgb(self, samples: NDArray[Any]) -> NDArray[Any]:
        """See `Encoding`; colours beyond sRGB's are clipped."""
        light = self._light(np.linspace(0, 1, peak(samples.dtype) + 1))
        if self.matrix is None or samples.shape[2] == 1:
            return from_float(srgb_of(light), samples.dtype)[samples]
        return _in_blocks(samples, np.array(self.matrix), lambda block: light[block])

    def _light(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.gamma is not None:
            return values ** (1 / self.gamma)
        return light_of(values)


@dataclass(frozen=True)
class LabEncoding:
    """CIE L*a*b* under D50, as TIFF holds it.

    Attributes:
        icc: a* and b* are offset, as in ICC profiles, rather than two's complement, and 100 of L*
            is 0xFF00 in 16 bits.
    """

    icc: bool = False

    def to_srgb(self, samples: NDArray[Any]) -> NDArray[Any]:
        """See `Encoding`; colours beyond sRGB's are clipped."""
        matrix = _XYZ_TO_SRGB @ _adaptation(_D50, _white(BT709)) * _D50
        return _in_blocks(samples, matrix, self._relative_xyz)

    def _relative_xyz(self, samples: NDArray[Any]) -> NDArray[np.float64]:
        """X, Y and Z, each divided by the white's. CIE 15:2004, equations 8.4 to 8.10 inverted."""
        wide = samples.dtype == np.uint16
        white = 0xFF00 if wide and self.icc else peak(samples.dtype)
        lightness = samples[..., 0] / white * 100
        colours = samples[..., 1:]
        step = 256 if wide else 1
        if self.icc:
            opponents = colours / step - 128
        else:
            opponents = colours.view(np.int16 if wide else np.int8) / step
        y = (lightness + 16) / 116
        cubes = np.stack([y + opponents[..., 0] / 500, y, y - opponents[..., 1] / 200], axis=-1)
        edge = 6 / 29
        return np.where(cubes > edge, cubes**3, 3 * edge**2 * (cubes - 4 / 29))


def rgb_encoding(gamma: float | None, chromaticities: Sequence[float] | None) -> RgbEncoding | None:
    """The encoding that a file describes, or None where it is as good as sRGB or makes no sense.

    Args:
        gamma: samples are light to this power; None: not said, so sRGB's curve.
        chromaticities: x and y of white, red, green and blue; None: not said, so sRGB's.
    """
    # Within 5 % of a display's 1/2.2 it is sRGB's curve that is meant: files say 0.45455 for it.
    if gamma is not None and (not 0.01 <= gamma <= 100 or abs(gamma * 2.2 - 1) < 0.05):
        gamma = None
    matrix = None if chromaticities is None else _matrix_to_srgb(chromaticities)
    if gamma is None and matrix is None:
        return None
    return RgbEncoding(gamma, matrix)


def _matrix_to_srgb(
    chromaticities: Sequence[float],
) -> tuple[tuple[float, float, float], ...] | None:
    """Linear light of these primaries to sRGB's; None where they are sRGB's or describe nothing."""
    if min(chromaticities[1::2]) <= 0:
        return None
    try:
        to_xyz = _rgb_to_xyz(chromaticities)
    except np.linalg.LinAlgError:
        return None
    white, srgb_white = _white(chromaticities), _white(BT709)
    matrix = _XYZ_TO_SRGB @ _adaptation(white, srgb_white) @ to_xyz
    if not np.isfinite(matrix).all() or np.abs(matrix - np.eye(3)).max() < 1 / 255:
        return None
    first, second, third = ((float(row[0]), float(row[1]), float(row[2])) for row in matrix)
    return first, second, third


def _white(chromaticities: Sequence[float]) -> NDArray[np.float64]:
    """XYZ of the white, of luminance 1."""
    return _xyz(chromaticities[:2])


def _xyz(point: Sequence[float]) -> NDArray[np.float64]:
    x, y = point
    return np.array([x, y, 1 - x - y]) / y


def _rgb_to_xyz(chromaticities: Sequence[float]) -> NDArray[np.float64]:
    """The matrix whose columns are the primaries, scaled so that their sum is the white."""
    red, green, blue = (chromaticities[start : start + 2] for start in (2, 4, 6))
    primaries = np.stack([_xyz(red), _xyz(green), _xyz(blue)], axis=1)
    return primaries * np.linalg.solve(primaries, _white(chromaticities))


def _adaptation(white: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """XYZ seen under one white to XYZ that looks alike under another, by Bradford."""
    gains = (_BRADFORD @ wanted) / (_BRADFORD @ white)
    return np.linalg.solve(_BRADFORD, gains[:, None] * _BRADFORD).astype(np.float64)


def light_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear light of sRGB samples in [0, 1]: sRGB's own curve."""
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def srgb_of(light: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of ``light_of``."""
    bright = 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055
    return np.where(light <= 0.0031308, 12.92 * light, bright)


def _in_blocks(
    samples: NDArray[Any],
    matrix: NDArray[np.float64],
    linear: Callable[[NDArray[Any]], NDArray[np.float64]],
) -> NDArray[Any]:
    """Samples as linear values, through a matrix, as sRGB: some rows at a time."""
    result = np.empty_like(samples)
    rows = max(1, _BLOCK_PIXELS // samples.shape[1])
    for start in range(0, len(samples), rows):
        block = np.ascontiguousarray(samples[start : start + rows])
        light = linear(block) @ matrix.T
        result[start : start + rows] = from_float(srgb_of(light), samples.dtype)
    return result


_XYZ_TO_SRGB = np.linalg.inv(_rgb_to_xyz(BT709))
