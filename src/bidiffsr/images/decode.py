"""Pictures out of a file's bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from bidiffsr.errors import ImageError, MemoryEstimateError
from bidiffsr.images.contents import Contents, Raw, refuse_samples
from bidiffsr.images.exif import resolution as resolution_in
from bidiffsr.images.formats import FORMATS, Format, foreign_name, format_of
from bidiffsr.images.image import Header, Image, from_float
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
    """The picture in the bytes of a file of one of the formats; they decide which.

    Palettes become RGB, fewer than 8 bits become 8, the EXIF orientation is applied. RGB and grey
    samples keep their own colour space where an ICC profile states it; where PNG's gAMA, cHRM or
    cICP or TIFF's chromaticities do, they become sRGB, as do CMYK and Lab (CMYK without a profile
    is taken for libvips' generic one). A profile that does not fit its samples is ignored, and so
    is damage to metadata alone. Of a TIFF's pages, those that are reduced copies of another are not
    counted.

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
        with explaining(format_):
            return decode_contents(format_, format_.contents(data), max_pixels, check_header)


def image_header(data: bytes, *, name: str = "picture", max_pixels: float = math.inf) -> Header:
    """What the bytes of a file say of the picture in it, which is not decoded.

    Args:
        data: a whole file.
        name: for messages, which begin with it.
        max_pixels: refuse a picture of more pixels than this.

    Raises:
        ImageError: as `decode_image`, for all that can be known so early.
    """
    with naming(name):
        format_ = known_format(data)
        with explaining(format_):
            return contents_header(format_, format_.contents(data), max_pixels)


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
        name = foreign_name(data)
        what = f"is {name}, which is not read" if name else "not a picture of a known kind"
        raise ImageError(f"{what}; expected {wanted}; convert it")
    return format_


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put the file's name before what is said of it."""
    try:
        yield
    except (ImageError, MemoryEstimateError) as error:
        raise type(error)(f"{name}: {error}") from error.__cause__


@contextmanager
def explaining(format_: Format) -> Iterator[None]:
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


def contents_header(format_: Format, contents: Contents, max_pixels: float) -> Header:
    """As `image_header`, of what a file's structure has been found to hold."""
    picture = _opened(format_, contents)
    _check_size(picture, contents, max_pixels)
    return _header(picture)


def _opened(format_: Format, contents: Contents) -> pyvips.Image:
    """The picture, its header read; where libvips does not decode it, a black one in its place."""
    raw = contents.raw
    if raw is None:
        return format_.open(contents.data, contents.page)
    black = libvips().Image.black(raw.width, raw.height, bands=raw.channels)
    return _described(black.cast("uchar" if raw.sample_bytes == 1 else "ushort"), raw, None)


def _described(picture: pyvips.Image, raw: Raw, icc: bytes | None) -> pyvips.Image:
    spaces = ("b-w", "grey16") if raw.channels < 3 else ("srgb", "rgb16")
    picture = picture.copy(interpretation=spaces[raw.sample_bytes - 1])
    return with_metadata(picture, dpi=raw.dpi, icc=icc)


def decode_contents(
    format_: Format, contents: Contents, max_pixels: float, check_header: HeaderCheck | None = None
) -> Image:
    """As `decode_image`, of what a file's structure has been found to hold."""
    picture = _opened(format_, contents)
    _check_size(picture, contents, max_pixels)
    if check_header is not None:
        check_header(_header(picture))
    _check_memory(picture)
    if contents.raw is not None:
        samples = np.ascontiguousarray(contents.raw.decode())
        picture = libvips().Image.new_from_array(samples)
        picture = _described(picture, contents.raw, contents.raw.icc())
    contents.check()
    for part in contents.jpegs:
        libvips().Image.jpegload_buffer(part, fail_on="warning").copy_memory()
    try:
        image = _image(picture, contents)
    except libvips().Error:
        if contents.bare is None:
            raise
        # It may be metadata that libvips complains of, which harms no pixel.
        bare = format_.open(contents.bare())
        image = _image(_like(picture, bare), contents)
    metadata = contents.metadata()
    dpi = image.dpi or (resolution_in(metadata.exif) if metadata.exif else None)
    return replace(image, metadata=metadata, dpi=dpi)


def _check_size(picture: pyvips.Image, contents: Contents, max_pixels: float) -> None:
    size, pixels = f"{picture.width}x{picture.height}", picture.width * picture.height
    if pixels > max_pixels:
        raise ImageError(
            f"says it is {size}; expected at most {max_pixels} pixels in all; make it smaller "
            "first, or raise --max-pixels of the command, or max_pixels of read_image"
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


def decoding_bytes(header: Header) -> int:
    """Of memory that decoding takes, at most, beside those of the file."""
    copy = header.height * header.width * header.samples * header.sample_bytes
    return copy * _COPIES_DECODING + _OTHER_BYTES_DECODING


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
    bits = metadata(picture, "bits-per-sample", 16)
    if 8 < bits < 16 and picture.format == "ushort":  # libvips puts zeros behind them
        most = (1 << bits) - 1
        steps = from_float(np.arange(most + 1) / most, np.uint16)
        samples = steps[samples >> (16 - bits)]
    grey = picture.bands < 3
    colours, alpha = np.split(samples, [1 if grey else 3], axis=2)
    if contents.keyed and alpha.size and alpha.min() == 255:
        alpha = alpha[..., :0]
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
