"""The forms in which a program may hand in a picture: a path, an array, or one of PIL's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bidiffsr.errors import ImageError
from bidiffsr.images.codec import read_image
from bidiffsr.images.image import Image


def accept(image: Any) -> tuple[Image, Callable[[Image], Any]]:
    """An ``Image`` of what the caller gave, and how to give the like back.

    Raises:
        ImageError: it is none of these forms, or cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        source = read_image(image)
        return source, _to_array
    if isinstance(image, np.ndarray):
        squeeze = image.ndim == 2
        channels = 1 if squeeze else image.shape[-1] if image.ndim == 3 else 0
        source = _from_array(image[..., None] if squeeze else image)
        return source, lambda result: _to_array(result, channels, squeeze)
    if hasattr(image, "convert") and hasattr(image, "getbands"):
        return _from_pil(image)
    raise ImageError(
        f"image is a {type(image).__name__}; expected a path, a uint8 or uint16 array "
        "(H, W, 3), or a PIL image"
    )


def _from_array(image: NDArray[Any]) -> Image:
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise ImageError(
            f"array has shape {image.shape}; expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        )
    grey = image.shape[2] == 1
    pixels = np.repeat(image, 3, axis=2) if grey else image[..., :3]
    return Image(pixels, image[..., 3] if image.shape[2] == 4 else None, grey=grey)


def _to_array(result: Image, channels: int = 0, squeeze: bool = False) -> NDArray[Any]:
    pixels = result.pixels[..., :1] if channels == 1 else result.pixels
    if result.alpha is not None:
        pixels = np.concatenate([pixels, result.alpha[..., None]], axis=2)
    return pixels[..., 0] if squeeze else pixels


def _from_pil(image: Any) -> tuple[Image, Callable[[Image], Any]]:
    from PIL import Image as PILImage  # installed, since the caller has one of its pictures

    if image.mode in ("I", "F"):
        raise ImageError(
            f"PIL image has mode {image.mode}, which states no range; expected one of 8 bits a "
            "channel or I;16"
        )
    if image.mode.startswith("I;16"):  # convert would clip its samples to 255
        array = np.asarray(image).astype(np.uint16)
    else:
        kept = {"1": "L", "L": "L", "RGB": "RGB", "RGBA": "RGBA", "RGBa": "RGBA"}
        kept |= {"LA": "RGBA", "PA": "RGBA"}
        mode = kept.get(image.mode, "RGBA" if "transparency" in image.info else "RGB")
        array = np.asarray(image.convert(mode))
    grey = array.ndim == 2
    same_colours = image.mode not in ("CMYK", "LAB")
    names = ("dpi", "exif", "icc_profile") if same_colours else ("dpi", "exif")
    info = {name: image.info[name] for name in names if name in image.info}

    def restore(result: Image) -> Any:
        made = PILImage.fromarray(_to_array(result, int(grey), grey))
        made.info.update(info)
        return made

    return _from_array(array[..., None] if grey else array), restore
