"""The picture file formats bidiffsr reads and writes, one row each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bidiffsr.images import jpeg, png, tiff, webp
from bidiffsr.images.contents import Contents
from bidiffsr.images.libvips import libvips

if TYPE_CHECKING:
    import pyvips


@dataclass(frozen=True)
class Format:
    """A file format: how to recognise it, and what it can hold.

    Attributes:
        name: for messages.
        suffixes: lower case, the usual one first.
        signature: matches the first bytes of every such file.
        operation: libvips' word for it: "png" stands for pngload_buffer and pngsave_buffer.
        contents: what a file's own structure says; raises ImageError, without the file's name.
        is_complete: whether the end of a file's bytes is there, where libvips may not notice.
        bare: a file less its metadata, of which libvips complains as it does of pixels; None where
            it does not.
        sixteen_bit: whether samples may have 16 bits, else 8.
        alpha: whether there may be an alpha channel.
        grey: whether there may be one colour channel, else three.
        lossy: whether written files lose detail, by the quality asked for.
        largest_side: of a picture, in pixels.
        options: for libvips when writing.
    """

    name: str
    suffixes: tuple[str, ...]
    signature: re.Pattern[bytes]
    operation: str
    contents: Callable[[bytes], Contents]
    is_complete: Callable[[bytes], bool] = lambda data: True
    bare: Callable[[bytes], bytes] | None = None
    sixteen_bit: bool = True
    alpha: bool = True
    grey: bool = True
    lossy: bool = False
    largest_side: int = 10_000_000  # libvips' own limit
    options: Mapping[str, Any] = field(default_factory=dict)

    def open(self, data: bytes, page: int = 0) -> pyvips.Image:
        """A picture of this format, its header read, its samples to be decoded once, in order.

        Raises:
            pyvips.Error: the data are damaged; later, too, when the samples are read.
        """
        load = getattr(libvips().Image, f"{self.operation}load_buffer")
        options = {"page": page} if page else {}
        # Below "warning", lost parts of a picture come out grey and count as read.
        picture = load(data, access="sequential", fail_on="warning", **options)
        if not self.is_complete(data):
            raise libvips().Error("the end of the file is missing")
        return picture

    def encode(self, picture: pyvips.Image, quality: int) -> bytes:
        """The bytes of a file of this format.

        Raises:
            pyvips.Error: the format cannot hold the picture.
        """
        quality_option = {"Q": quality} if self.lossy else {}
        save = getattr(picture, f"{self.operation}save_buffer")
        return save(**self.options, **quality_option)


FORMATS = (
    Format(
        name="PNG",
        suffixes=(".png",),
        signature=re.compile(rb"\x89PNG\r\n\x1a\n"),
        operation="png",
        contents=png.contents,
        is_complete=png.is_complete,
    ),
    Format(
        name="JPEG",
        suffixes=(".jpg", ".jpeg", ".jfif", ".jpe"),
        signature=re.compile(rb"\xff\xd8\xff"),
        operation="jpeg",
        contents=jpeg.contents,
        is_complete=jpeg.is_complete,
        bare=jpeg.bare,
        sixteen_bit=False,
        alpha=False,
        lossy=True,
        largest_side=65500,
        options={"subsample_mode": "off", "optimize_coding": True},
    ),
    Format(
        name="WebP",
        suffixes=(".webp",),
        signature=re.compile(rb"RIFF....WEBP", re.DOTALL),
        operation="webp",
        contents=webp.contents,
        sixteen_bit=False,
        grey=False,
        lossy=True,
        largest_side=16383,
        options={"smart_subsample": True},
    ),
    Format(
        name="TIFF",
        suffixes=(".tif", ".tiff"),
        signature=re.compile(rb"II[*+]\0|MM\0[*+]"),
        operation="tiff",
        contents=tiff.contents,
        bare=tiff.bare,
        options={"compression": "deflate", "predictor": "horizontal"},
    ),
)

FORMAT_BY_SUFFIX = {suffix: known for known in FORMATS for suffix in known.suffixes}


def format_of(data: bytes) -> Format | None:
    """The format that a file's bytes are in, or None for any other."""
    return next((known for known in FORMATS if known.signature.match(data)), None)
