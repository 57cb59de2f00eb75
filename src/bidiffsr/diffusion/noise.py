"""Standard normal noise that is a pure function of (seed, sample, stream, y, x, channel).

Nothing is drawn in sequence, so tile size, batch size, thread count and device cannot change the
noise a pixel gets. The bits come from Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As
Easy as 1, 2, 3", SC 2011), the normals from the Box-Muller transform.

Only integer arithmetic and the operations IEEE 754 rounds correctly (+, -, *, /, sqrt) touch the
values: NumPy's log, sin and cos may differ in the last bit between instruction sets, so short
series stand in for them. The same arguments therefore give the same bytes on every machine.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bidiffsr.system.checks import whole

__all__ = ["MAX_SEED", "normal_noise", "philox4x32"]

Words: TypeAlias = NDArray[np.uint64]
Reals: TypeAlias = NDArray[np.float64]

MAX_SEED = 2**64 - 1
_MAX_WORD = 2**32 - 1
_MAX_HALF_WORD = 2**16 - 1

_LOW_WORD = np.uint64(_MAX_WORD)
_WORD_BITS = np.uint64(32)
# Salmon et al., section 3.3: the two multipliers and the two Weyl increments of the key.
_MULTIPLIER_0, _MULTIPLIER_1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL_0, _WEYL_1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10

# Positions worked on at once: the dozen temporaries then stay in the processor's cache.
_CHUNK = 8192

# A literal, since math.log belongs to the platform's C library.
_LN_2 = 0.6931471805599453
# Taylor coefficients, in powers of the squared argument; the first term left out is below 1e-13
# of the result for every argument that occurs, a millionth of a float32's last bit.
_ATANH = tuple(1.0 / (2 * k + 1) for k in range(8))
_SIN = tuple((-1) ** k / math.factorial(2 * k + 1) for k in range(7))
_COS = tuple((-1) ** k / math.factorial(2 * k) for k in range(8))


def philox4x32(
    counter: tuple[Any, Any, Any, Any], key: tuple[int, int]
) -> tuple[Words, Words, Words, Words]:
    """Philox4x32-10: four random 32-bit words for each counter.

    Args:
        counter: four integers or integer arrays that broadcast together, values in [0, 2^32).
        key: two integers in [0, 2^32).

    Returns:
        Four uint64 arrays of the broadcast shape, values in [0, 2^32).

    Source: Salmon et al., SC 2011, section 3.3; agrees with Random123's known answers.
    """
    c0, c1, c2, c3 = (np.asarray(word, dtype=np.uint64) for word in counter)
    k0, k1 = key
    for _ in range(_ROUNDS):
        product_0 = c0 * _MULTIPLIER_0
        product_1 = c2 * _MULTIPLIER_1
        c0 = (product_1 >> _WORD_BITS) ^ c1 ^ np.uint64(k0)
        c1 = product_1 & _LOW_WORD
        c2 = (product_0 >> _WORD_BITS) ^ c3 ^ np.uint64(k1)
        c3 = product_0 & _LOW_WORD
        k0 = (k0 + _WEYL_0) & _MAX_WORD
        k1 = (k1 + _WEYL_1) & _MAX_WORD
    return c0, c1, c2, c3


def normal_noise(
    seed: int,
    sample: int,
    channels: int,
    height: int,
    width: int,
    *,
    top: int = 0,
    left: int = 0,
    stream: int = 0,
) -> NDArray[np.float32]:
    """Standard normal noise for the window that starts at row `top`, column `left`.

    The value at an absolute position (y, x) depends on (seed, sample, stream, y, x, channel) and
    on nothing else: a window equals the same window cut from any larger one, and more channels
    leave the first ones as they are. Values are byte-identical on every platform.

    Args:
        seed: 0 to 2^64 - 1.
        sample: which of several results from one seed, 0 to 2^32 - 1.
        channels: at least 1, at most 262144.
        height: rows, at least 1.
        width: columns, at least 1.
        top: first row, at least 0; top + height at most 2^32.
        left: first column, at least 0; left + width at most 2^32.
        stream: 0 for the noise sampling starts from, 1 + index for what the sampling step of
            that index (from 0) draws; 0 to 65535.

    Returns:
        float32, (channels, height, width), mean 0, standard deviation 1, |value| < 6.8.

    Raises:
        OptionError: an argument is not a whole number or is outside its range.
    """
    seed = whole(0, MAX_SEED)("seed", seed)
    sample = whole(0, _MAX_WORD)("sample", sample)
    stream = whole(0, _MAX_HALF_WORD)("stream", stream)
    channels = whole(1, 4 * (_MAX_HALF_WORD + 1))("channels", channels)
    top = whole(0, _MAX_WORD)("top", top)
    left = whole(0, _MAX_WORD)("left", left)
    height = whole(1, _MAX_WORD + 1 - top)("height", height)
    width = whole(1, _MAX_WORD + 1 - left)("width", width)

    key = (seed & _MAX_WORD, seed >> 32)
    noise = np.empty((channels, height * width), dtype=np.float32)
    for start in range(0, height * width, _CHUNK):
        stop = min(start + _CHUNK, height * width)
        row, column = np.divmod(np.arange(start, stop, dtype=np.uint64), np.uint64(width))
        column += np.uint64(left)
        row += np.uint64(top)
        for first in range(0, channels, 4):
            group = (stream << 16) | (first // 4)
            words = philox4x32((column, row, sample, group), key)
            wanted = noise[first : first + 4, start:stop]
            for pair in range(0, len(wanted), 2):
                normals = _box_muller(words[pair], words[pair + 1])
                for target, values in zip(wanted[pair : pair + 2], normals, strict=False):
                    target[:] = values
    return noise.reshape(channels, height, width)


def _box_muller(radius_word: Words, angle_word: Words) -> tuple[Reals, Reals]:
    """Two independent standard normals from two uniform 32-bit words.

    sqrt(-2 ln u) * (cos, sin)(2 pi v), with u and v the midpoints (word + 1/2) / 2^32, so that
    neither is ever 0 or 1 (Box and Muller, 1958).
    """
    radius = np.sqrt(_log_of_midpoint(radius_word) * -2.0)
    cosine, sine = _cos_sin_of_midpoint(angle_word)
    cosine *= radius
    sine *= radius
    return cosine, sine


def _log_of_midpoint(word: Words) -> Reals:
    """ln((word + 1/2) / 2^32), from ln m = 2 atanh((m - 1) / (m + 1)) with m near 1."""
    mantissa, exponent = np.frexp(word.astype(np.float64) + 0.5)
    # frexp gives m in [1/2, 1); [sqrt(1/2), sqrt(2)) keeps the series short and its sum exact at 1.
    low = mantissa < math.sqrt(0.5)
    mantissa = np.where(low, mantissa + mantissa, mantissa)
    ratio = (mantissa - 1.0) / (mantissa + 1.0)
    logarithm = _series(ratio * ratio, _ATANH)
    logarithm *= ratio
    logarithm += logarithm
    logarithm += (exponent - low - 32.0) * _LN_2
    return logarithm


def _cos_sin_of_midpoint(word: Words) -> tuple[Reals, Reals]:
    """Cosine and sine of 2 pi (word + 1/2) / 2^32, by quarter turns and a rest within pi/4."""
    quarter = (word + np.uint64(1 << 29)) >> np.uint64(30)
    rest = word.astype(np.float64)
    rest += 0.5
    rest -= quarter * 2.0**30
    rest *= 2.0 * math.pi / 2.0**32
    square = rest * rest
    cosine = _series(square, _COS)
    sine = _series(square, _SIN)
    sine *= rest
    # (cos, sin) after 1, 2, 3 quarter turns: (-s, c), (-c, -s), (s, -c).
    odd = (quarter & np.uint64(1)).astype(bool)
    rotated_cosine, rotated_sine = np.where(odd, sine, cosine), np.where(odd, cosine, sine)
    rotated_cosine *= 1.0 - ((quarter + np.uint64(1)) & np.uint64(2))
    rotated_sine *= 1.0 - (quarter & np.uint64(2))
    return rotated_cosine, rotated_sine


def _series(variable: Reals, coefficients: tuple[float, ...]) -> Reals:
    """The polynomial sum of coefficients[k] * variable^k, by Horner's rule."""
    total = variable * coefficients[-1]
    for coefficient in coefficients[-2:0:-1]:
        total += coefficient
        total *= variable
    total += coefficients[0]
    return total
