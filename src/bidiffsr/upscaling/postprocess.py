"""From the network's picture to a result that may be saved: depth, alpha, and what is refused.

Everything works on some rows at a time, so that a large picture is never there as floats twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bidiffsr.errors import NumericalError
from bidiffsr.images.image import Image, from_float, premultiply, to_float, unpremultiply
from bidiffsr.images.resize import LARGEST_SCALE, imresize, resized_length
from bidiffsr.system.buffers import new_buffer, release, strips

# A result may differ from its input by this much (RMS, [0, 1]) and no more when both are shrunk to
# a quarter of the input's size: only there do stripes and text, which upscaling has to invent
# anew, no longer count. Bicubic results stay below 0.03; one that has lost the picture is above.
_MAX_INCONSISTENCY = 0.1
_COARSER = 4
# Differences in a picture, [0, 1], that a sound result may have smoothed away.
_FAINT = 0.02


def result_image(
    picture: NDArray[np.float32],
    source: Image,
    opacity: NDArray[np.float32] | None,
    *,
    shrink: float,
    scale: float,
    folder: Path | None,
) -> Image:
    """Resize to the asked scale; restore grey, alpha and depth.

    Args:
        picture: (H, W, 3), float32 in [0, 1].
        source: what was upscaled.
        opacity: the source's alpha, float32, where it has one.
        shrink: from ``picture`` to the result.
        scale: from ``source`` to the result.
        folder: where the result lives; see ``new_buffer``.
    """
    height, width = (resized_length(side, shrink) for side in picture.shape[:2])
    dtype = source.pixels.dtype
    pixels = new_buffer((height, width, 3), dtype, folder)
    alpha = None if opacity is None else new_buffer((height, width), dtype, folder)
    for rows in strips(height, width):
        part = picture[rows] if shrink == 1 else imresize(picture, shrink, rows=rows).clip(0, 1)
        if source.grey:
            part = np.repeat(part.mean(axis=2, keepdims=True), 3, axis=2)
        if opacity is not None and alpha is not None:
            visible = imresize(opacity, scale, rows=rows).clip(0, 1)
            part = unpremultiply(part, visible)
            alpha[rows] = from_float(visible, dtype)
        pixels[rows] = from_float(part, dtype)
        release(picture, pixels)
    return Image(pixels, alpha, grey=source.grey, icc=source.icc, dpi=source.dpi)


def check_result(source: Image, result: Image) -> None:
    """Refuse a result that cannot have come from its source: nothing like it should be saved.

    Raises:
        NumericalError: the result is constant though the source is not, or seen from afar it is
            another picture.
    """
    if result.pixels[..., 0].size > 1 and _spread(result) == 0 and _spread(source) > _FAINT:
        raise NumericalError("the result is one flat colour; the model is unsound")
    small, large = sorted((source, result), key=lambda image: image.pixels.size)
    # Both sides were rounded up to whole pixels, which changes the longer one's ratio the least.
    ratio = max(small.height, small.width) / max(large.height, large.width)
    coarse = max(ratio / _COARSER, 1 / LARGEST_SCALE)
    before, after = _shrunk(small, coarse / ratio), _shrunk(large, coarse)
    height, width = (min(sides) for sides in zip(before.shape[:2], after.shape[:2], strict=True))
    difference = after[:height, :width] - before[:height, :width]
    rms = float(np.sqrt(np.mean(np.square(difference))))
    if rms > _MAX_INCONSISTENCY:
        raise NumericalError(
            f"the result differs from its source by {rms:.2f} RMS, though both were made small, "
            f"more than {_MAX_INCONSISTENCY}; the model is unsound"
        )


def _samples(image: Image) -> NDArray[Any]:
    """(H, W, 3), or (H, W, 4) with alpha."""
    if image.alpha is None:
        return image.pixels
    return np.concatenate([image.pixels, image.alpha[..., None]], axis=2)


def _visible(samples: NDArray[Any]) -> NDArray[np.float32]:
    """The colours weighted by their opacity, since invisible ones may differ at will."""
    colour = to_float(samples[..., :3])
    return colour if samples.shape[2] == 3 else premultiply(colour, to_float(samples[..., 3]))


def _shrunk(image: Image, scale: float) -> NDArray[np.float32]:
    return imresize(_samples(image), scale, convert=_visible)


def _spread(image: Image) -> float:
    """Between the least and the greatest visible value."""
    samples = _samples(image)
    least, greatest = 1.0, 0.0
    for rows in strips(image.height, image.width):
        part = _visible(samples[rows])
        least, greatest = min(least, float(part.min())), max(greatest, float(part.max()))
    return greatest - least
