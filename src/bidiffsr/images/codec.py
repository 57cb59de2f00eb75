"""Pictures in and out of files."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bidiffsr.errors import ConfigError, ImageError, OutputError
from bidiffsr.images.find import IMAGE_SUFFIXES
from bidiffsr.images.formats import (
    FORMAT_BY_SUFFIX,
    FORMATS,
    Format,
    format_of,
    libvips,
    libvips_reason,
    metadata,
    resolution,
    with_metadata,
)
from bidiffsr.images.image import Image, from_float, peak, to_float
from bidiffsr.system.files import StrPath, printable, reason, write_atomically

if TYPE_CHECKING:
    import pyvips


MAX_PIXELS = 1 << 28
"""Pictures of more pixels (268 million) are taken for decompression bombs unless told otherwise."""


def read_image(path: StrPath, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Read a PNG, JPEG, WebP or TIFF picture; its contents decide which, not its name.

    Palettes become RGB, fewer than 8 bits become 8, the EXIF orientation is applied. RGB and grey
    samples keep their own colour space and profile; CMYK and Lab become sRGB (CMYK without a
    profile is taken for libvips' generic one). A profile that does not fit its samples is ignored.
    EXIF, XMP and IPTC are not kept.

    Args:
        path: the file.
        max_pixels: refuse a picture of more pixels than this before decoding it.

    Raises:
        ImageError: the file is missing, empty, cut short, damaged, not such a picture, too large,
            holds several pages or frames, or samples that are neither 8- nor 16-bit integers.
    """
    data = _read_bytes(path)
    format_ = format_of(data)
    if format_ is None:
        wanted = ", ".join(known.name for known in FORMATS)
        raise ImageError(
            f"{printable(path)}: not a picture of a known kind; expected {wanted}; convert it"
        )
    try:
        picture = format_.open(data)
        _check_header(path, picture, max_pixels)
        return _from_vips(_to_rgb_or_grey(path, picture))
    except libvips().Error as error:
        raise ImageError(
            f"{printable(path)}: damaged or cut short ({libvips_reason(error)}); "
            f"expected a whole {format_.name} file; fetch or export it again"
        ) from error


def write_image(path: StrPath, image: Image, *, overwrite: bool = False, quality: int = 95) -> None:
    """Write `image` to `path`, in the format its suffix names; all of it, or nothing.

    The picture goes to a temporary name in the same folder, onto the disk, then is renamed. If
    anything fails, the temporary file is removed and an older file at `path` is as it was.

    What a format cannot hold is reduced to the nearest it can: JPEG and WebP get 8 bits, rounded;
    JPEG gets transparency blended onto white; WebP gets grey as RGB (in sRGB where a grey profile
    applied). JPEG is 4:4:4; WebP is 4:2:0, as lossy WebP must be. PNG and TIFF lose nothing.

    Args:
        path: the file; its suffix is one of `IMAGE_SUFFIXES`, in either case.
        image: the picture. Where `image.grey`, the mean of the three channels is written.
        overwrite: whether an existing file may be replaced.
        quality: 1 to 100, for JPEG and WebP.

    Raises:
        OutputError: see `check_output`; or the picture is larger than the format allows, or the
            disk refuses it.
        ConfigError: `quality` is out of range.
    """
    format_ = check_output(path, overwrite=overwrite)
    if not 1 <= quality <= 100:
        raise ConfigError(f"quality is {quality}; expected 1 to 100")
    if max(image.height, image.width) > format_.largest_side:
        raise OutputError(
            f"{printable(path)}: the picture is {image.width}x{image.height}; {format_.name} holds "
            f"at most {format_.largest_side} pixels a side; write .png or .tif instead"
        )
    try:
        data = format_.encode(_to_vips(image, format_), quality)
    except libvips().Error as error:
        raise OutputError(
            f"{printable(path)}: cannot be encoded as {format_.name} ({libvips_reason(error)}); "
            "write .png or .tif instead"
        ) from error
    write_atomically(path, lambda temporary: temporary.write_bytes(data), overwrite=overwrite)


def through_jpeg(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """``pixels`` (H, W, 3) as they come back from a JPEG file of ``quality``, 1 to 100.

    Below 90 colours lose half their resolution, as most programs write them; unlike `write_image`.
    """
    picture = libvips().Image.new_from_array(pixels, interpretation="srgb")
    return libvips().Image.new_from_buffer(picture.jpegsave_buffer(Q=quality), "").numpy()


def check_output(path: StrPath, *, overwrite: bool = False) -> Format:
    """Make sure, before long work, that `write_image` could write to `path`.

    Raises:
        OutputError: the suffix is unknown, the folder is missing or read-only, `path` exists and
            must not be overwritten, or is something else than a file.
    """
    target = Path(path)
    format_ = FORMAT_BY_SUFFIX.get(target.suffix.lower())
    if format_ is None:
        raise OutputError(
            f"{printable(path)}: suffix {target.suffix!r} is no picture format's; "
            f"expected one of {' '.join(IMAGE_SUFFIXES)}"
        )
    try:
        mode = target.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = None
    except (OSError, ValueError) as error:
        raise OutputError(f"{printable(path)}: cannot be a file ({reason(error)})") from error
    if mode is not None and not stat.S_ISREG(mode):
        raise OutputError(f"{printable(path)}: exists and is no regular file; choose another name")
    if mode is not None and not overwrite:
        raise OutputError(f"{printable(path)}: exists already; remove it or allow overwriting")
    if not target.parent.is_dir():
        raise OutputError(f"{printable(path)}: its folder does not exist; create it first")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{printable(path)}: its folder cannot be written to; choose another")
    return format_


def _read_bytes(path: StrPath) -> bytes:
    # Python reads the file because libvips gives some names a meaning of its own ("a[page=1].tif").
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"{printable(path)}: no such file; check the name") from error
    except IsADirectoryError as error:
        raise ImageError(f"{printable(path)}: is a folder; expected a picture file") from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{printable(path)}: cannot be read ({reason(error)})") from error
    if not data:
        raise ImageError(f"{printable(path)}: is empty; expected a picture; fetch it again")
    return data


def _check_header(path: StrPath, picture: pyvips.Image, max_pixels: int) -> None:
    pages = metadata(picture, "n-pages", 1)
    if pages > 1:
        raise ImageError(
            f"{printable(path)}: holds {pages} pages or frames; expected one; split it first"
        )
    if picture.width * picture.height > max_pixels:
        raise ImageError(
            f"{printable(path)}: says it is {picture.width}x{picture.height}; expected at most "
            f"{max_pixels} pixels in all; crop it or raise max_pixels"
        )


def _to_rgb_or_grey(path: StrPath, picture: pyvips.Image) -> pyvips.Image:
    """One to four bands of 8 or 16 bits, the second or fourth being alpha."""
    if picture.interpretation == "cmyk":
        depth = 16 if picture.format == "ushort" else 8
        picture = picture.icc_transform("srgb", embedded=True, input_profile="cmyk", depth=depth)
    elif picture.interpretation in ("lab", "labs"):
        picture = picture.colourspace("srgb")
    if picture.format not in ("uchar", "ushort") or picture.bands > 4:
        raise ImageError(
            f"{printable(path)}: holds {picture.bands} bands of {picture.format} samples; "
            "expected grey or RGB of 8 or 16 bits, with or without alpha; convert it"
        )
    return picture


def _from_vips(picture: pyvips.Image) -> Image:
    dpi = resolution(picture)
    profile = metadata(picture, "icc-profile-data", b"")
    orientation = metadata(picture, "orientation", 1)
    if orientation > 1:
        picture = picture.copy_memory().autorot()  # turning needs more than one pass from the top
        if dpi and orientation >= 5:
            dpi = dpi[1], dpi[0]
    samples = picture.numpy().reshape(picture.height, picture.width, picture.bands)
    grey = picture.bands < 3
    colours = 1 if grey else 3
    return Image(
        pixels=np.repeat(samples[..., :colours], 3 // colours, axis=2),
        alpha=samples[..., colours].copy() if picture.bands > colours else None,
        grey=grey,
        icc=profile if profile[16:20] == (b"GRAY" if grey else b"RGB ") else None,
        dpi=dpi,
    )


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
