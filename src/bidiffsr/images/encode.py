"""Pictures into a file's bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bidiffsr.errors import ConfigError, OutputError
from bidiffsr.images.formats import FORMAT_BY_SUFFIX, Format
from bidiffsr.images.image import Image, from_float, peak, to_float
from bidiffsr.images.libvips import is_shortage, libvips, libvips_reason, with_metadata

if TYPE_CHECKING:
    import pyvips


def encode_image(image: Image, suffix: str, *, name: str = "picture", quality: int = 95) -> bytes:
    """The bytes of a file of `image`.

    What a format cannot hold is reduced to the nearest it can: JPEG and WebP get 8 bits, rounded;
    JPEG gets transparency blended onto white; WebP gets grey as RGB (in sRGB where a grey profile
    applied). JPEG is 4:4:4; WebP is 4:2:0, as lossy WebP must be. PNG and TIFF lose nothing.

    Args:
        image: the picture. Where `image.grey`, the mean of the three channels is written.
        suffix: one of `IMAGE_SUFFIXES`, in either case; it names the format.
        name: for messages, which begin with it.
        quality: 1 to 100, for JPEG and WebP.

    Raises:
        OutputError: no format has this suffix, or it cannot hold a picture so large.
        ConfigError: `quality` is out of range.
    """
    format_ = format_for(suffix, name)
    if not 1 <= quality <= 100:
        raise ConfigError(f"quality is {quality}; expected 1 to 100")
    if max(image.height, image.width) > format_.largest_side:
        raise OutputError(
            f"{name}: the picture is {image.width}x{image.height}; {format_.name} holds "
            f"at most {format_.largest_side} pixels a side; write .png or .tif instead"
        )
    try:
        return format_.encode(_to_vips(image, format_), quality)
    except libvips().Error as error:
        reason = libvips_reason(error)
        advice = "allow more" if is_shortage(reason) else "write .png or .tif instead"
        raise OutputError(
            f"{name}: cannot be encoded as {format_.name} ({reason}); {advice}"
        ) from error


def format_for(suffix: str, name: str) -> Format:
    """The format that files with `suffix` are written in.

    Raises:
        OutputError: there is none; the message begins with `name`.
    """
    format_ = FORMAT_BY_SUFFIX.get(suffix.lower())
    if format_ is None:
        raise OutputError(
            f"{name}: suffix {suffix!r} is no picture format's; "
            f"expected one of {' '.join(FORMAT_BY_SUFFIX)}"
        )
    return format_


def _to_vips(image: Image, format_: Format) -> pyvips.Image:
    """What will be encoded: `image`, less what the format cannot hold."""
    pixels, alpha = image.pixels, image.alpha
    if pixels.dtype == np.uint16 and not format_.sixteen_bit:
        pixels = from_float(to_float(pixels), np.uint8)
        alpha = None if alpha is None else from_float(to_float(alpha), np.uint8)
    if image.grey:
        # The three channels are three estimates of one value; their mean rounds to nearest.
        total = pixels[..., :1] + pixels[..., 1:2].astype(np.uint32) + pixels[..., 2:]
        pixels = ((total + 1) // 3).astype(pixels.dtype)
    samples = pixels if alpha is None else np.concatenate([pixels, alpha[..., None]], axis=2)
    spaces = ("b-w", "grey16") if image.grey else ("srgb", "rgb16")
    space = spaces[samples.dtype == np.uint16]
    picture = libvips().Image.new_from_array(np.ascontiguousarray(samples), interpretation=space)
    picture = with_metadata(picture, dpi=image.dpi, icc=image.icc)
    if alpha is not None and not format_.alpha:
        white = peak(samples.dtype)
        picture = picture.flatten(background=[white], max_alpha=white)
    if image.grey and image.icc is not None and not format_.grey:
        picture = picture.icc_transform("srgb", embedded=True)
    return picture
