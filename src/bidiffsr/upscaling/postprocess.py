"""From the network's picture to a result that may be saved: depth, alpha, and what is refused.

Everything works on some rows at a time, so that a large picture is never there as floats twice.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bidiffsr.errors import NumericalError
from bidiffsr.images.image import Image, from_float, premultiply, to_float, unpremultiply
from bidiffsr.images.resize import LARGEST_SCALE, Resizing, imresize, resized
from bidiffsr.system.buffers import new_buffer, release, strips
from bidiffsr.system.threads import for_each

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
    shrink: Resizing,
    scale: Resizing,
    folder: Path | None,
    threads: int = 1,
) -> Image:
    """Resize to the asked scale; restore grey, alpha and depth.

    Args:
        picture: (H, W, 3), float32 in [0, 1].
        source: what was upscaled.
        opacity: the source's alpha, float32, where it has one.
        shrink: from ``picture`` to the result; see ``imresize``.
        scale: from ``source`` to the result.
        folder: where the result lives; see ``new_buffer``.
        threads: see ``for_each``.
    """
    size = height, width = resized((source.height, source.width), scale)
    same = shrink in (1, picture.shape[:2])

    def scale_of(image: NDArray[np.float32], factor: Resizing) -> Resizing:
        # What is rounded twice may come out one pixel off.
        return factor if resized((image.shape[0], image.shape[1]), factor) == size else size

    dtype = source.pixels.dtype
    pixels = new_buffer((height, width, 3), dtype, folder)
    alpha = None if opacity is None else new_buffer((height, width), dtype, folder)

    def finish(rows: slice) -> None:
        part = (
            picture[rows]
            if same
            else imresize(picture, scale_of(picture, shrink), rows=rows).clip(0, 1)
        )
        if source.grey:
            part = np.repeat(part.mean(axis=2, keepdims=True), 3, axis=2)
        if opacity is not None and alpha is not None:
            visible = imresize(opacity, scale_of(opacity, scale), rows=rows).clip(0, 1)
            part = unpremultiply(part, visible)
            alpha[rows] = from_float(visible, dtype)
        samples = from_float(part, dtype)
        for channel in range(3):  # planes in memory: numpy would copy them three samples at a time
            pixels[rows, :, channel] = samples[..., channel]
        release(picture, pixels)

    for_each(strips(height, width), finish, threads)
    return replace(source, pixels=pixels, alpha=alpha)


def check_result(source: Image, result: Image) -> None:
    """Refuse a result that cannot have come from its source: nothing like it should be saved.

    Raises:
        NumericalError: the result is constant though the source is not, or seen from afar it is
            another picture.
    """
    if result.pixels[..., 0].size > 1 and _spread(result) == 0 and _spread(source) > _FAINT:
        raise NumericalError("the result is one flat colour; the model is unsound")
    # One size for both, coarser than either, which `imresize` reaches from either.
    lengths = zip((source.height, source.width), (result.height, result.width), strict=True)
    height, width = (
        -(-max(min(pair), _COARSER * max(pair) // LARGEST_SCALE) // _COARSER) for pair in lengths
    )
    difference = _shrunk(result, (height, width)) - _shrunk(source, (height, width))
    rms = float(np.sqrt(np.mean(np.square(difference))))
    if rms > _MAX_INCONSISTENCY:
        raise NumericalError(
            f"the result differs from its source by {rms:.2f} RMS, though both were made small, "
            f"more than {_MAX_INCONSISTENCY}; the model is unsound"
        )


def samples_of(image: Image) -> NDArray[Any]:
    """(H, W, 3), or (H, W, 4) with alpha."""
    if image.alpha is None:
        return image.pixels
    return np.concatenate([image.pixels, image.alpha[..., None]], axis=2)


def visible(samples: NDArray[Any]) -> NDArray[np.float32]:
    """The colours weighted by their opacity, since invisible ones may differ at will."""
    colour = to_float(samples[..., :3])
    return colour if samples.shape[2] == 3 else premultiply(colour, to_float(samples[..., 3]))


def _shrunk(image: Image, size: tuple[int, int]) -> NDArray[np.float32]:
    return imresize(samples_of(image), size, convert=visible)


def _spread(image: Image) -> float:
    """Between the least and the greatest visible value."""
    samples = samples_of(image)
    least, greatest = 1.0, 0.0
    for rows in strips(image.height, image.width):
        part = visible(samples[rows])
        least, greatest = min(least, float(part.min())), max(greatest, float(part.max()))
    return greatest - least
