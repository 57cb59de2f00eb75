"""The forms in which a program may hand in a picture: a path, an array, or one of PIL's."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bidiffsr.errors import ImageError
from bidiffsr.images.codec import read_image
from bidiffsr.images.colours import LabEncoding, rgb_encoding
from bidiffsr.images.decode import HeaderCheck
from bidiffsr.images.image import Image
from bidiffsr.images.libvips import cmyk_to_srgb, libvips, with_metadata


def as_image(
    image: Any, check_header: HeaderCheck | None = None
) -> tuple[Image, Callable[[Image], Any]]:
    """An ``Image`` of what the caller gave, and how to give the like back.

    Args:
        image: a path, an array, or one of PIL's.
        check_header: may refuse a file before it is decoded.

    Raises:
        ImageError: it is none of these forms, or cannot be read.
    """
    if isinstance(image, str | os.PathLike):
        source = read_image(image, check_header=check_header)
        return source, _to_array
    if isinstance(image, np.ndarray):
        array = _plain(image)
        squeeze = array.ndim == 2
        channels = 1 if squeeze else array.shape[-1] if array.ndim == 3 else 0
        source = _from_array(array[..., None] if squeeze else array)
        return source, lambda result: _to_array(result, channels, squeeze).astype(image.dtype)
    if hasattr(image, "convert") and hasattr(image, "getbands"):
        return _from_pil(image)
    raise ImageError(
        f"image is of type {type(image).__name__}; expected a path, a uint8 or uint16 array "
        "(H, W, 3), or a PIL image"
    )


def _plain(image: NDArray[Any]) -> NDArray[Any]:
    """An array of a subclass, or of the other byte order, as one of numpy's own."""
    if isinstance(image, np.ma.MaskedArray) and np.ma.is_masked(image):
        raise ImageError("image is masked in places; expected a value everywhere; fill it first")
    array = np.asarray(image)
    return array.astype(np.uint16) if array.dtype.newbyteorder("=") == np.uint16 else array


def _from_array(image: NDArray[Any]) -> Image:
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4):
        raise ImageError(
            f"image has shape {image.shape}; expected (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
        )
    if image.size == 0 or image.dtype not in (np.uint8, np.uint16):
        raise ImageError(
            f"image is {image.dtype} of shape {image.shape}; expected uint8 or uint16, at least "
            "one pixel"
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

    array, same_colours = _pil_samples(image)
    grey = array.ndim == 2
    names = ("dpi", "exif", "icc_profile") if same_colours else ("dpi", "exif")
    info = {name: image.info[name] for name in names if name in image.info}

    def restore(result: Image) -> Any:
        made = PILImage.fromarray(_to_array(result, int(grey), grey))
        made.info.update(info)
        return made

    return _from_array(array[..., None] if grey else array), restore


def _pil_samples(image: Any) -> tuple[NDArray[Any], bool]:
    """Grey (H, W), RGB or RGBA samples, and whether their colours are still the picture's own."""
    mode, profile = image.mode, image.info.get("icc_profile")
    if mode in ("I", "F"):
        raise ImageError(
            f"image has the PIL mode {mode}, which states no range; expected one of 8 bits a "
            "channel or I;16"
        )
    if mode == "CMYK":
        picture = libvips().Image.new_from_array(np.asarray(image), interpretation="cmyk")
        return cmyk_to_srgb(with_metadata(picture, dpi=None, icc=profile)).numpy(), False
    if mode == "LAB":
        return LabEncoding().to_srgb(np.asarray(image)), False
    array = _pil_array(image)
    encoding = rgb_encoding(image.info.get("gamma"), image.info.get("chromaticity"))
    if encoding is None or profile or "srgb" in image.info:
        return array, True
    if array.ndim == 2:
        return encoding.to_srgb(array[..., None])[..., 0], True
    colours, alpha = np.split(array, [3], axis=2)
    return np.concatenate([encoding.to_srgb(colours), alpha], axis=2), True


def _pil_array(image: Any) -> NDArray[Any]:
    """The samples of a picture in a grey or RGB mode, with alpha where it states transparency."""
    transparent = "transparency" in image.info
    if image.mode.startswith("I;16"):  # convert would clip its samples to 255
        grey = np.asarray(image).astype(np.uint16)
        if not transparent:
            return grey
        alpha = np.where(grey == image.info["transparency"], 0, 65535).astype(np.uint16)
        return np.stack([grey, grey, grey, alpha], axis=2)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("RGBA", "RGBa", "LA", "PA") or transparent:
        return np.asarray(image.convert("RGBA"))
    return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
