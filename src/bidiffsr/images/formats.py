"""The picture file formats bidiffsr reads and writes, one row each, and the way into libvips."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyvips

_MM_PER_INCH = 25.4
_UNSTATED_DPI = 72.0  # what JPEG readers assume, so the one value that claims nothing when written
_LIBVIPS_DEFAULT_DPI = (25.4, 72.0)  # libvips fills in one of these where a file states nothing


@functools.cache
def libvips() -> ModuleType:
    """pyvips, loaded when a picture is first touched: `import bidiffsr` has to be quick.

    libvips' warnings go to the "pyvips" logger, which prints nothing unless the application asks.
    """
    import pyvips

    return pyvips


def libvips_reason(error: Exception) -> str:
    """What a pyvips.Error says, on one line: each of its lines once, less "unable to call ..."."""
    lines = (line.strip() for line in str(error).splitlines())
    reasons = dict.fromkeys(line for line in lines if line and not line.startswith("unable to "))
    return "; ".join(reasons)[:200] or "its header cannot be read"


def metadata(picture: pyvips.Image, name: str, default: Any) -> Any:
    """A picture's metadata item, or `default` where it has none of that name."""
    return picture.get(name) if picture.get_typeof(name) else default


def resolution(picture: pyvips.Image) -> tuple[float, float] | None:
    """Dots per inch, across and down, in tenths; None where the file does not state them."""
    # Tenths, for PNG counts whole pixels per metre: its 300 dpi are 299.9994.
    across, down = (round(per_mm * _MM_PER_INCH, 1) for per_mm in (picture.xres, picture.yres))
    return None if across == down and across in _LIBVIPS_DEFAULT_DPI else (across, down)


def with_metadata(
    picture: pyvips.Image, *, dpi: tuple[float, float] | None, icc: Any
) -> pyvips.Image:
    """`picture` with this resolution and this ICC profile (bytes or None), for its file."""
    across, down = dpi or (_UNSTATED_DPI, _UNSTATED_DPI)
    picture = picture.copy(xres=across / _MM_PER_INCH, yres=down / _MM_PER_INCH)
    if icc is not None:
        picture.set_type(libvips().GValue.blob_type, "icc-profile-data", icc)
    return picture


def _png_is_complete(data: bytes) -> bool:
    """Whether the closing chunk is there; metadata, orientation among it, may stand before it."""
    return b"IEND\xaeB`\x82" in data


def _jpeg_is_complete(data: bytes) -> bool:
    """Whether an end-of-image marker follows the first scan's start.

    A tail of zeros, as broken downloads and memory cards leave it, is grey picture to libjpeg.
    The thumbnail inside the headers has an end marker too, so headers are stepped over.
    """
    position = 2
    while (marker := data[position : position + 2]) != b"\xff\xda" and marker[:1] == b"\xff":
        is_fill_byte = marker == b"\xff\xff"
        segment_length = int.from_bytes(data[position + 2 : position + 4], "big")
        position += 1 if is_fill_byte else 2 + segment_length
    return data.find(b"\xff\xd9", position) >= 0


@dataclass(frozen=True)
class Format:
    """A file format: how to recognise it, and what it can hold.

    Attributes:
        name: for messages.
        suffixes: lower case, the usual one first.
        signature: matches the first bytes of every such file.
        operation: libvips' word for it: "png" stands for pngload_buffer and pngsave_buffer.
        is_complete: whether the end of a file's bytes is there, where libvips may not notice.
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
    is_complete: Callable[[bytes], bool] = lambda data: True
    sixteen_bit: bool = True
    alpha: bool = True
    grey: bool = True
    lossy: bool = False
    largest_side: int = 10_000_000  # libvips' own limit
    options: Mapping[str, Any] = field(default_factory=dict)

    def open(self, data: bytes) -> pyvips.Image:
        """A picture of this format, its header read, its samples to be decoded once, in order.

        Raises:
            pyvips.Error: the data are damaged; later, too, when the samples are read.
        """
        load = getattr(libvips().Image, f"{self.operation}load_buffer")
        picture = load(data, access="sequential", fail_on="error")
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
        is_complete=_png_is_complete,
    ),
    Format(
        name="JPEG",
        suffixes=(".jpg", ".jpeg"),
        signature=re.compile(rb"\xff\xd8\xff"),
        operation="jpeg",
        is_complete=_jpeg_is_complete,
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
        options={"compression": "deflate", "predictor": "horizontal"},
    ),
)

FORMAT_BY_SUFFIX = {suffix: known for known in FORMATS for suffix in known.suffixes}


def format_of(data: bytes) -> Format | None:
    """The format that a file's bytes are in, or None for any other."""
    return next((known for known in FORMATS if known.signature.match(data)), None)
