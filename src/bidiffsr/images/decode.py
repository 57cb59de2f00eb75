"""Pictures out of a file's bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from bidiffsr.errors import ImageError, MemoryEstimateError
from bidiffsr.images.contents import Contents, refuse_samples
from bidiffsr.images.formats import FORMATS, Format, format_of
from bidiffsr.images.image import Header, Image
from bidiffsr.images.libvips import (
    cmyk_to_srgb,
    is_shortage,
    is_unsupported,
    libvips,
    libvips_reason,
    metadata,
    resolution,
    srgb_profile,
    with_metadata,
)

if TYPE_CHECKING:
    import pyvips

MAX_PIXELS = 1 << 28
"""Pictures of more pixels (268 million) are taken for decompression bombs unless told otherwise."""

# Samples as they are decoded, as libvips hands them on, and as the result; and threads and tables.
_COPIES_DECODING = 3
_OTHER_BYTES_DECODING = 64_000_000


HeaderCheck = Callable[[Header], object]
"""Raises ImageError or MemoryEstimateError, without the file's name, to have a picture refused."""


def decode_image(
    data: bytes,
    *,
    name: str = "picture",
    max_pixels: int = MAX_PIXELS,
    check_header: HeaderCheck | None = None,
) -> Image:
    """The picture in the bytes of a PNG, JPEG, WebP or TIFF file; they decide which.

    Palettes become RGB, fewer than 8 bits become 8, the EXIF orientation is applied. RGB and grey
    samples keep their own colour space where an ICC profile states it; where PNG's gAMA, cHRM or
    cICP or TIFF's chromaticities do, they become sRGB, as do CMYK and Lab (CMYK without a profile
    is taken for libvips' generic one). A profile that does not fit its samples is ignored, and so
    is damage to metadata alone. EXIF, XMP and IPTC are not kept. Of a TIFF's pages, those that are
    reduced copies of another are not counted.

    Args:
        data: a whole file.
        name: for messages, which begin with it.
        max_pixels: refuse a picture of more pixels than this before decoding it.
        check_header: may refuse a picture for other reasons before it is decoded.

    Raises:
        ImageError: the data are empty, cut short, damaged, not such a picture, too large, or hold
            several pages or frames, or samples or colours of a kind that is not read.
        MemoryEstimateError: there is too little memory to decode it.
    """
    with naming(name):
        format_ = known_format(data)
        with _explaining(format_):
            return _decoded(format_, data, max_pixels, check_header)


def known_format(data: bytes) -> Format:
    """The format that a file's bytes are in, of which the first 16 are enough.

    Raises:
        ImageError: there are none, or they are in none of the known formats.
    """
    if not data:
        raise ImageError("is empty; expected a picture; fetch it again")
    format_ = format_of(data)
    if format_ is None:
        wanted = ", ".join(known.name for known in FORMATS)
        raise ImageError(f"not a picture of a known kind; expected {wanted}; convert it")
    return format_


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put the file's name before what is said of it."""
    try:
        yield
    except (ImageError, MemoryEstimateError) as error:
        raise type(error)(f"{name}: {error}") from error.__cause__


@contextmanager
def _explaining(format_: Format) -> Iterator[None]:
    """libvips' errors as ours."""
    try:
        yield
    except libvips().Error as error:
        reason = libvips_reason(error)
        if is_shortage(reason):
            message = f"too little memory or too few threads to decode it ({reason}); allow more"
        elif is_unsupported(reason):
            message = f"a {format_.name} file of an unsupported kind ({reason}); convert it"
        else:
            message = (
                f"damaged or cut short ({reason}); "
                f"expected a whole {format_.name} file; fetch or export it again"
            )
        raise ImageError(message) from error


def _decoded(
    format_: Format, data: bytes, max_pixels: int, check_header: HeaderCheck | None
) -> Image:
    contents = format_.contents(data)
    picture = format_.open(contents.data, contents.page)
    _check_size(picture, contents, max_pixels)
    if check_header is not None:
        check_header(_header(picture))
    _check_memory(picture)
    for part in contents.jpegs:
        libvips().Image.jpegload_buffer(part, fail_on="warning").copy_memory()
    try:
        return _image(picture, contents)
    except libvips().Error:
        if format_.bare is None:
            raise
        # It may be metadata that libvips complains of, which harms no pixel.
        bare = format_.open(format_.bare(contents.data))
        return _image(_like(picture, bare), contents)


def _check_size(picture: pyvips.Image, contents: Contents, max_pixels: int) -> None:
    size, pixels = f"{picture.width}x{picture.height}", picture.width * picture.height
    if pixels > max_pixels:
        raise ImageError(
            f"says it is {size}; expected at most {max_pixels} pixels in all; "
            "raise max_pixels, or make it smaller first"
        )
    if pixels > contents.most_pixels:
        raise ImageError(
            f"says it is {size}, for which its {len(contents.data)} bytes cannot be enough; "
            "expected a whole file; fetch or export it again"
        )


def _header(picture: pyvips.Image) -> Header:
    """What it will be as an ``Image``."""
    sides = picture.height, picture.width
    height, width = sides if metadata(picture, "orientation", 1) < 5 else reversed(sides)
    colours = 1 if picture.bands < 3 else 4 if picture.interpretation == "cmyk" else 3
    return Header(height, width, picture.bands > colours, 2 if picture.format == "ushort" else 1)


def _check_memory(picture: pyvips.Image) -> None:
    """Make sure that there is room, without which libvips ends the process."""
    sample_bytes = 2 if picture.format == "ushort" else 1
    copy = picture.width * picture.height * picture.bands * sample_bytes
    needed = copy * _COPIES_DECODING + _OTHER_BYTES_DECODING
    try:
        np.empty(needed, np.uint8)  # costs nothing until it is written to
    except MemoryError as error:
        raise MemoryEstimateError(
            f"needs {needed / 1e6:.0f} MB of memory to be decoded, more than there is; allow more"
        ) from error


def _like(picture: pyvips.Image, bare: pyvips.Image) -> pyvips.Image:
    """`bare` with the metadata of `picture` that are used."""
    icc = metadata(picture, "icc-profile-data", None)
    bare = with_metadata(bare, dpi=resolution(picture), icc=icc)
    orientation = metadata(picture, "orientation", 1)
    bare.set_type(libvips().GValue.gint_type, "orientation", orientation)
    return bare


def _image(picture: pyvips.Image, contents: Contents) -> Image:
    picture = cmyk_to_srgb(picture) if picture.interpretation == "cmyk" else picture
    if picture.format not in ("uchar", "ushort") or picture.bands > 4:
        raise refuse_samples(f"{picture.bands} bands of {picture.format} samples")
    dpi = resolution(picture)
    orientation = metadata(picture, "orientation", 1)
    if orientation > 1:
        picture = picture.copy_memory().autorot()  # turning needs more than one pass from the top
        if dpi and orientation >= 5:
            dpi = dpi[1], dpi[0]
    samples = picture.numpy().reshape(picture.height, picture.width, picture.bands)
    grey = picture.bands < 3
    colours, alpha = np.split(samples, [1 if grey else 3], axis=2)
    profile = metadata(picture, "icc-profile-data", b"")
    if not contents.obeys_profile or profile[16:20] != (b"GRAY" if grey else b"RGB "):
        profile = None
    if contents.encoding is not None and profile is None:
        colours = contents.encoding.to_srgb(colours)
        profile = None if grey else srgb_profile()
    return Image(
        pixels=np.repeat(colours, 3 // colours.shape[2], axis=2),
        alpha=alpha[..., 0].copy() if alpha.size else None,
        grey=grey,
        icc=profile,
        dpi=dpi,
    )
