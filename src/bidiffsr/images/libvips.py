"""The way into libvips, which decodes and encodes: loaded late, its messages on one line."""

from __future__ import annotations

import errno
import functools
import os
import re
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bidiffsr.errors import ImageError

if TYPE_CHECKING:
    import pyvips

_MM_PER_INCH = 25.4
_UNSTATED_DPI = 72.0  # what JPEG readers assume, so the one value that claims nothing when written
_INKS = 4  # cyan, magenta, yellow and black
_LIBVIPS_DEFAULT_DPI = (25.4, 72.0)  # libvips fills in one of these where a file states nothing

_UNSUPPORTED = re.compile(r"compression .*not (configured|implemented|supported)", re.IGNORECASE)
_SYSTEM_ERROR = re.compile(
    r"(?:write error|unable to open for write)\s*\n\s*(?:system|unix) error: (.+)"
)
_SHORTAGE = re.compile(
    r"out of memory|cannot allocate|unable to (allocate|create thread)|insufficient memory"
    r"|memory allocation|resource temporarily unavailable|thread",
    re.IGNORECASE,
)


def libvips() -> ModuleType:
    """pyvips, loaded when a picture is first touched: `import bidiffsr` has to be quick.

    libvips' warnings go to the "pyvips" logger, which prints nothing unless the application asks.

    Raises:
        ImageError: it cannot be loaded; or a parent process has loaded it: its threads are not in
            this one, and it would wait for them for ever.
    """
    module, process = _load()
    if process != os.getpid():
        raise ImageError(
            "picture files cannot be read or written in a process that was forked after its parent "
            'had done so; start processes with the method "spawn", or hand in arrays'
        )
    return module


@functools.cache
def _load() -> tuple[ModuleType, int]:
    try:
        import pyvips
    except (OSError, MemoryError) as error:  # the system's reason goes on about other names
        reason = str(error).partition(".  ")[0] or "the memory ran out"
        raise ImageError(
            f"libvips, which reads and writes pictures, cannot be loaded ({reason}); allow more "
            "memory, or install pyvips anew"
        ) from error
    return pyvips, os.getpid()


def libvips_reason(error: Exception) -> str:
    """What a pyvips.Error says, on one line: each of its lines once, less "unable to call ..."."""
    lines = (line.strip() for line in str(error).splitlines())
    reasons = dict.fromkeys(line for line in lines if line and not _is_caller(line))
    return "; ".join(reasons)[:200] or "its header cannot be read"


def _is_caller(line: str) -> bool:
    return line.startswith(("unable to call ", "unable to write to ", "unable to copy to "))


def system_error(error: Exception) -> OSError | None:
    """What the system said when libvips could not write a file, if it was that."""
    found = _SYSTEM_ERROR.search(str(error))
    if found is None:
        return None
    codes = [code for code in errno.errorcode if os.strerror(code) == found[1]]
    return OSError(codes[0] if codes else errno.EIO, found[1])


def is_unsupported(reason: str) -> bool:
    """Whether libvips says that a file is in a variant it cannot decode, rather than damaged."""
    return bool(_UNSUPPORTED.search(reason))


def is_shortage(reason: str) -> bool:
    """Whether libvips says that it got too little memory or no threads."""
    return bool(_SHORTAGE.search(reason))


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


def srgb_profile() -> bytes:
    """The ICC profile that says of RGB samples that they have become sRGB."""
    return libvips().Image.profile_load("srgb")


def cmyk_to_srgb(picture: pyvips.Image) -> pyvips.Image:
    """CMYK samples, by their own profile or else libvips' generic one, in sRGB of equal depth."""
    depth = 16 if picture.format == "ushort" else 8
    alpha = None
    if picture.bands > _INKS:  # libvips would stretch it
        picture = picture.copy_memory()
        picture, alpha = picture[:_INKS], picture[_INKS:]
    colours = picture.icc_transform("srgb", embedded=True, input_profile="cmyk", depth=depth)
    return colours if alpha is None else colours.bandjoin(alpha)
