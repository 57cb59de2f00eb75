"""Pictures into a file's bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from bidiffsr.errors import OutputError
from bidiffsr.images.compression import Compression
from bidiffsr.images.formats import FORMAT_BY_SUFFIX, Format
from bidiffsr.images.image import Image, from_float, peak, to_float
from bidiffsr.images.libvips import (
    is_shortage,
    libvips,
    libvips_reason,
    system_error,
    with_metadata,
)

if TYPE_CHECKING:
    import pyvips


def encode_image(
    image: Image,
    suffix: str,
    *,
    name: str = "picture",
    quality: int = 95,
    subsampling: str = "4:4:4",
) -> bytes:
    """The bytes of a file of `image`.

    What a format cannot hold is reduced to the nearest it can: JPEG, WebP, GIF and BMP get 8 bits,
    rounded, AVIF and HEIC 12, and OpenEXR half floats of light, which keep 11 or more; JPEG, PPM,
    PGM and PFM get transparency blended onto white; WebP, GIF, AVIF, HEIC and PPM get grey as RGB
    (in sRGB where a grey profile applied), PGM gets luma, and JPEG XL grey with transparency as
    RGB. WebP is 4:2:0, as lossy WebP must be. JPEG XL of quality 100 loses nothing; below, it says
    in its own words what a profile said. A GIF has 256 colours, each transparent or not. GIF, BMP,
    PPM, PGM, PAM, PFM and OpenEXR have no profiles, so colours become sRGB, and OpenEXR has none
    where alpha is 0. PNG and TIFF lose nothing. Of the metadata, JPEG holds 64 kB of each kind;
    what has no place in the others gets a line from `write_image`.

    Args:
        image: the picture. Where `image.grey`, the mean of the three channels is written.
        suffix: one of `IMAGE_SUFFIXES`, in either case; it names the format.
        name: for messages, which begin with it.
        quality: 1 to 100, for JPEG, WebP, AVIF, HEIC and JPEG XL.
        subsampling: of a JPEG's, AVIF's or HEIC's colours, "4:4:4", or "4:2:0" for half their
            resolution.

    Raises:
        OutputError: no format has this suffix, or it cannot hold a picture so large.
        ConfigError: `quality` or `subsampling` is out of range.
    """
    return encoded(image, suffix, Compression(quality, subsampling), name=name)[0]


def encoded(
    image: Image, suffix: str, compression: Compression, *, name: str
) -> tuple[bytes, tuple[str, ...]]:
    """As `encode_image`, and a line for each part of the metadata that has no place there."""
    with _reported(format_for(suffix, name), image, name) as format_:
        file = io.BytesIO(format_.encode(_to_vips(image, format_), compression))
    left_out = _embed_metadata(file, image, format_, compression)
    return file.getvalue(), left_out


def save_image(
    image: Image,
    path: Path,
    suffix: str,
    *,
    name: str = "picture",
    quality: int = 95,
    subsampling: str = "4:4:4",
) -> tuple[str, ...]:
    """Write the bytes that `encode_image` makes to a file, without holding them all.

    Args:
        image, suffix, name, quality, subsampling: see `encode_image`.
        path: the file, which need not have the suffix.

    Returns:
        A line for each part of the metadata that the format has no place for.

    Raises:
        OutputError, ConfigError: see `encode_image`.
        OSError: the file cannot be written.
    """
    compression = Compression(quality, subsampling)
    with _reported(format_for(suffix, name), image, name) as format_:
        format_.save(_to_vips(image, format_), path, compression)
    with path.open("r+b") as file:
        return _embed_metadata(file, image, format_, compression)


@contextmanager
def _reported(format_: Format, image: Image, name: str) -> Iterator[Format]:
    """What stands in the way of encoding, in the house's words; see `encode_image`."""
    if max(image.height, image.width) > format_.largest_side:
        raise OutputError(
            f"{name}: the picture is {image.width}x{image.height}; {format_.name} holds "
            f"at most {format_.largest_side} pixels a side; write .png or .tif instead"
        )
    try:
        yield format_
    except libvips().Error as error:
        if (trouble := system_error(error)) is not None:
            raise trouble from error
        reason = libvips_reason(error)
        advice = "allow more" if is_shortage(reason) else "write .png or .tif instead"
        raise OutputError(
            f"{name}: cannot be encoded as {format_.name} ({reason}); {advice}"
        ) from error


def _embed_metadata(
    file: BinaryIO, image: Image, format_: Format, compression: Compression
) -> tuple[str, ...]:
    """Put what belongs to a picture into its file, which is open for reading and writing.

    Returns:
        A line for each part that the format has no place for.
    """
    metadata = image.metadata.fitted(image.width, image.height)
    if metadata.record:
        # Of one that was read from another file, that file's compression goes.
        record = {name: value for name, value in metadata.record.items() if name != "file"}
        lost = {"file": asdict(compression)} if format_.lossy else {}
        metadata = replace(metadata, record=record | lost)
    metadata, left_out = metadata.stated(format_.xmp_room)
    return (*left_out, *format_.embed(file, metadata, image.dpi))


def format_for(suffix: str, name: str) -> Format:
    """The format that files with `suffix` are written in.

    Raises:
        OutputError: there is none, or what writes it is not installed; the message begins with
            `name`.
    """
    format_ = FORMAT_BY_SUFFIX.get(suffix.lower())
    if format_ is None:
        raise OutputError(
            f"{name}: suffix {suffix!r} is no picture format's; "
            f"expected one of {' '.join(FORMAT_BY_SUFFIX)}"
        )
    format_.check_written(name)
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
    if image.icc is not None and not (format_.profiles and (format_.grey or not image.grey)):
        picture = _to_srgb(picture)
        if not format_.profiles:
            picture.remove("icc-profile-data")
    grey = format_.grey and (image.grey or not format_.colour)
    if grey and picture.bands > 2:
        picture = picture.colourspace("b-w" if samples.dtype == np.uint8 else "grey16")
    return picture


def _to_srgb(picture: pyvips.Image) -> pyvips.Image:
    """What has a profile that its file cannot have; unchanged where the profile is none."""
    depth = 16 if picture.format == "ushort" else 8
    try:
        return picture.icc_transform("srgb", embedded=True, depth=depth).copy_memory()
    except libvips().Error:
        return picture
