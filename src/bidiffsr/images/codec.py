"""Pictures in and out of files."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bidiffsr.errors import ImageError, OutputError
from bidiffsr.images.decode import (
    MAX_PIXELS,
    HeaderCheck,
    decode_image,
    image_header,
    known_format,
    naming,
)
from bidiffsr.images.encode import format_for, save_image
from bidiffsr.images.formats import Format
from bidiffsr.images.image import Header, Image
from bidiffsr.images.libvips import libvips
from bidiffsr.system.files import (
    StrPath,
    check_path,
    exists_already,
    printable,
    read_file,
    reason,
    write_atomically,
)

# No picture is larger than four samples of 16 bits a pixel, not compressed, with metadata.
_BYTES_PER_PIXEL = 8
_METADATA_BYTES = 1 << 28


def read_image(
    path: StrPath, *, max_pixels: int = MAX_PIXELS, check_header: HeaderCheck | None = None
) -> Image:
    """Read a picture of one of the formats; its contents decide which, not its name.

    What becomes of it, see `decode_image`.

    Args:
        path: the file.
        max_pixels: refuse a picture of more pixels than this before decoding it.
        check_header: may refuse a picture for other reasons before it is decoded.

    Raises:
        ImageError: the file is missing, no regular file, unreadable, or larger than a picture of
            `max_pixels` or the memory; or see `decode_image`.
    """
    return decode_image(
        file_bytes(path, max_pixels),
        name=printable(path),
        max_pixels=max_pixels,
        check_header=check_header,
    )


def read_header(path: StrPath, *, max_pixels: int = MAX_PIXELS) -> Header:
    """What a file says of the picture in it, which is not decoded.

    Args:
        path: the file.
        max_pixels: see `read_image`.

    Raises:
        ImageError: as `read_image`, for all that can be known so early.
    """
    return image_header(file_bytes(path, max_pixels), name=printable(path), max_pixels=max_pixels)


def file_bytes(path: StrPath, max_pixels: int) -> bytes:
    """What a picture's file holds, whose start has been looked at; see `read_image`."""

    # Python reads the file because libvips gives some names a meaning of its own ("a[page=1].tif").
    def check_start(start: bytes) -> None:
        with naming(printable(path)):
            known_format(start)

    return read_file(path, max_bytes=most_bytes(max_pixels), check_start=check_start)


def most_bytes(max_pixels: int = MAX_PIXELS) -> int:
    """Bytes that a file of a picture may have; one of more is none."""
    return max_pixels * _BYTES_PER_PIXEL + _METADATA_BYTES


def write_image(
    path: StrPath,
    image: Image,
    *,
    overwrite: bool = False,
    quality: int = 95,
    subsampling: str = "4:4:4",
    modified: int | None = None,
    written: Callable[[Path], object] | None = None,
) -> tuple[str, ...]:
    """Write `image` to `path`, in the format its suffix names; all of it, or nothing.

    The picture goes to a temporary name in the same folder, onto the disk, then is renamed. If
    anything fails, the temporary file is removed and an older file at `path` is as it was. What a
    format cannot hold is reduced, see `encode_image`.

    Args:
        path: the file; its suffix is one of `IMAGE_SUFFIXES`, in either case.
        image: the picture. Where `image.grey`, the mean of the three channels is written.
        overwrite: whether an existing file may be replaced.
        quality: 1 to 100, for JPEG, WebP, AVIF, HEIC and JPEG XL.
        subsampling: of a JPEG's, AVIF's or HEIC's colours, "4:4:4", or "4:2:0" for half their
            resolution.
        modified: when the file is to say that it was modified, in nanoseconds since 1970; now.
        written: is given the temporary name of the whole file, just before that is renamed.

    Returns:
        A line for each part of the picture's metadata that the format has no place for.

    Raises:
        OutputError: see `check_output`; or the picture is larger than the format allows, or the
            disk refuses it.
        ConfigError: `quality` or `subsampling` is out of range.
        ImageError: `image` is none.
    """
    if not isinstance(image, Image):
        raise ImageError(
            f"image is of type {type(image).__name__}; expected a bidiffsr.Image, "
            "such as bidiffsr.Image(pixels)"
        )
    check_output(path, overwrite=overwrite)
    suffix, name = Path(path).suffix, printable(path)
    left_out: list[str] = []

    def write(temporary: Path) -> None:
        made = save_image(
            *(image, temporary, suffix), name=name, quality=quality, subsampling=subsampling
        )
        left_out.extend(made)
        if modified is not None:
            os.utime(temporary, ns=(modified, modified))
        if written is not None:
            written(temporary)

    write_atomically(path, write, overwrite=overwrite)
    return tuple(left_out)


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
            must not be overwritten, or is something else than a file, or no path.
    """
    check_path(path, OutputError)
    target = Path(path)
    format_ = format_for(target.suffix, printable(path))
    try:
        mode = target.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = None
    except (OSError, ValueError) as error:
        raise OutputError(f"{printable(path)}: cannot be a file ({reason(error)})") from error
    if mode is not None and not stat.S_ISREG(mode):
        raise OutputError(f"{printable(path)}: exists and is no regular file; choose another name")
    if mode is not None and not overwrite:
        raise exists_already(path)
    if not target.parent.is_dir():
        raise OutputError(f"{printable(path)}: its folder does not exist; create it first")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{printable(path)}: its folder cannot be written to; choose another")
    return format_
